"""What workers do together, and what one of them can't do alone."""

import time
from contextlib import suppress

import pytest

pytestmark = pytest.mark.slow


def test_data_that_one_worker_lacks_end_the_run_for_all(nodes, tmp_path):
    """Instead of a worker that waits for the other for half an hour, even if it has failed before the other began."""
    import ray
    from ray import train

    from anomalib_students.runs import ensemble
    from anomalib_students.runs.experiment import Experiment
    from anomalib_students.runs.storage import Storage
    from anomalib_students.runs.workers import Run, Workers, run_on_workers

    class Lacking(Experiment):
        def create_datamodule(self, category):
            if train.get_context().get_world_rank() == 1:
                raise FileNotFoundError(f"There is no {category} on this node.")
            return self

        def prepare_data(self):
            pass

        def setup(self):
            pass

    class Late(Run):
        """A run whose first worker starts seconds after the other."""

        def failure(self):
            # There is no rank outside of the workers.
            with suppress(RuntimeError):
                time.sleep(5 if train.get_context().get_world_rank() == 0 else 0)
            return super().failure()

    experiment = Lacking(data={}, workers=Workers(number=2, cpus=0.5))
    run = Late(Storage(str(tmp_path)), "pill-p33")
    config = {"experiment": experiment, "category": "pill", "patch_size": 33, "run": run}
    remote = ray.remote(num_cpus=0)(run_on_workers)
    with pytest.raises(RuntimeError, match=r"There is no pill on this node\."):
        ray.get(remote.remote(ensemble._work, config, experiment.workers, run))
