"""Run the training of one ensemble, that of one category and patch size: a trial of Tune around a run of Train."""

from typing import Any

from .experiment import Experiment, label
from .storage import exists, write_json
from .workers import Run, run_on_workers

__all__ = ["TRAINED", "run_ensemble", "run_name"]

TRAINED = "trained.json"
"""File in the folder of a run that is done, with the path of its last checkpoint."""


def run_name(category: str | None, patch_size: int) -> str:
    """Name the Ray Train run of an ensemble.

    Args:
        category: Name of the category.
        patch_size: Side p of the receptive field in pixels.

    Returns:
        Name of its folder, by which a run that was interrupted finds its checkpoints again.
    """
    return f"{label(category)}-p{patch_size}"


def run_ensemble(experiment: Experiment, attempt: str, config: dict[str, Any]) -> None:
    """Train an ensemble on workers of its own, unless that is done.

    Args:
        experiment: Settings of the grid.
        attempt: Name of the grid's present attempt, see :class:`Run`.
        config: The trial's ``category`` and ``patch_size``.

    Raises:
        RuntimeError: If the data are missing or cannot be read, if the workers fail more often than they may, or if the
            training ends without a checkpoint.
    """
    name = run_name(config["category"], config["patch_size"])
    file_system, root = experiment.storage()
    trained = f"{root}/{name}/{TRAINED}"
    if exists(file_system, trained):
        return
    run = Run(experiment.folder, name, attempt)
    result = run_on_workers(_train_worker, {"experiment": experiment, "run": run, **config}, experiment.workers, run)
    if result.checkpoint is None:
        msg = "The training has left no checkpoint."
        raise RuntimeError(msg)
    write_json(file_system, trained, {"checkpoint": result.checkpoint.path})


def _train_worker(config: dict[str, Any]) -> None:
    from ray.train.collective import barrier

    from .training import train_ensemble

    experiment, category, run = config["experiment"], config["category"], config["run"]
    try:
        datamodule = experiment.create_datamodule(category)
        datamodule.prepare_data()
        datamodule.setup()
    except Exception as error:  # noqa: BLE001
        # Another attempt, as after the death of a worker, would find the same.
        run.record_failure(str(error) or type(error).__name__)
    # If one worker lacks the data, the others would wait for it in their first collective operation.
    barrier()
    if run.failure() is None:
        train_ensemble(experiment, category, config["patch_size"])
