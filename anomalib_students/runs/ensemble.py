"""Train the ensemble of one category and patch size on its own workers, as a run of Ray Train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib_students.user_errors import LIGHTNING, only_warnings_of

from .experiment import Experiment
from .jobs import Compute, OnProgress
from .storage import Storage
from .workers import Run, run_on_workers

__all__ = ["run_ensemble"]


def run_ensemble(
    experiment: Experiment,
    category: str | None,
    patch_size: int,
    name: str,
    storage: Storage,
    compute: Compute,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train an ensemble on workers, and return the path of its last checkpoint in the storage.

    A run of that name is resumed from its last checkpoint. Raise a RuntimeError if the data cannot be read, or the
    workers fail too often.
    """
    del compute, on_progress
    run = Run(storage, name)
    config = {"experiment": experiment, "category": category, "patch_size": patch_size, "run": run}
    result = run_on_workers(_work, config, experiment.workers, run)
    if result.checkpoint is None:
        msg = "The training has left no checkpoint."
        raise RuntimeError(msg)
    return {"checkpoint": result.checkpoint.path}


def _work(config: dict[str, Any]) -> None:
    """Train on one of the workers, if all of them can read the data."""
    from ray.train.collective import barrier

    experiment, category, run = config["experiment"], config["category"], config["run"]
    try:
        datamodule = experiment.create_datamodule(category)
        datamodule.prepare_data()
        datamodule.setup()
    except Exception as error:  # noqa: BLE001
        # Another attempt, as after the death of a worker, would fail too.
        run.record_failure(str(error) or type(error).__name__)
    # If one worker lacks the data, the others would wait for it in their first collective operation.
    barrier()
    if run.failure() is None:
        _train(experiment, category, config["patch_size"])


@only_warnings_of(LIGHTNING)
def _train(experiment: Experiment, category: str | None, patch_size: int) -> None:
    """Train from the last checkpoint if there is one, and report a checkpoint after each epoch."""
    from lightning.pytorch.callbacks import ModelCheckpoint
    from ray import train
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer

    from anomalib_students.engine.termination import HowToResume

    from .training import quiet_trainer

    model = experiment.create_model(patch_size)
    model.named_by_user = frozenset(experiment.trainer)
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if experiment.workers.gpus else "cpu",
        "devices": "auto" if experiment.workers.gpus else 1,
        "strategy": RayDDPStrategy(),
        "plugins": [RayLightningEnvironment()],
        # Ray keeps the checkpoints.
        "callbacks": [
            RayTrainReportCallback(),
            ModelCheckpoint(save_top_k=0),
            HowToResume("Resume the job with --resume true."),
        ],
    }
    trainer = prepare_trainer(quiet_trainer(model, **arguments, **experiment.trainer))
    datamodule = experiment.create_datamodule(category)
    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        trainer.fit(model, datamodule=datamodule)
        return
    with checkpoint.as_directory() as folder:
        path = Path(folder) / RayTrainReportCallback.CHECKPOINT_NAME
        trainer.fit(model, datamodule=datamodule, ckpt_path=path)
