"""What workers do together, and what one of them can't do alone."""

import pytest

pytestmark = pytest.mark.slow


def test_data_that_one_worker_lacks_end_the_run_for_all(nodes, tmp_path):
    """Instead of a worker that waits for the other for half an hour."""
    import ray
    from ray import train

    from anomalib_students.runs import ensemble
    from anomalib_students.runs.experiment import Experiment
    from anomalib_students.runs.jobs import Compute
    from anomalib_students.runs.storage import Storage
    from anomalib_students.runs.workers import Workers

    class Lacking(Experiment):
        def create_datamodule(self, category):
            if train.get_context().get_world_rank() == 1:
                raise FileNotFoundError(f"There is no {category} on this node.")
            return self

        def prepare_data(self):
            pass

        def setup(self):
            pass

    experiment = Lacking(data={}, workers=Workers(number=2, cpus=0.5))
    run = ray.remote(num_cpus=0)(ensemble.run_ensemble)
    with pytest.raises(RuntimeError, match=r"There is no pill on this node\."):
        ray.get(run.remote(experiment, "pill", 33, "pill-p33", Storage(str(tmp_path)), Compute(), print))
