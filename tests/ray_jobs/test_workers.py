"""What workers do together, and what one of them can't do alone."""

import pytest

pytestmark = pytest.mark.slow


def test_data_that_one_worker_lacks_end_the_run_for_all(nodes, tmp_path):
    """Instead of a worker that waits for the other for half an hour."""
    from ray import train, tune

    from anomalib_students.cluster.ensemble import _train_worker
    from anomalib_students.cluster.workers import Run, Workers, run_on_workers

    class Experiment:
        def create_datamodule(self, category):
            if train.get_context().get_world_rank() == 1:
                raise FileNotFoundError(f"There is no {category} on this node.")
            return self

        def prepare_data(self):
            pass

        def setup(self):
            pass

    def trial(_):
        run = Run(str(tmp_path), "pill-p33", "first")
        config = {"experiment": Experiment(), "category": "pill", "patch_size": 33, "run": run}
        run_on_workers(_train_worker, config, Workers(number=2, cpus=0.5, gpus=0), run)

    # Its own process takes little of the two cores.
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.1}), run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"))
    )
    (result,) = tuner.fit()
    assert "There is no pill on this node." in str(result.error)
