"""Pretrain teachers on a Ray cluster: a trial of Tune for each patch size, around a run of Train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

from .storage import check_settings
from .workers import TRIAL_RESOURCES, Run, Workers, cause, run_on_workers

__all__ = ["pretrain_teachers"]


def pretrain_teachers(
    settings: Mapping[str, Any], patch_sizes: Sequence[int], folder: Path, workers: Workers, resume: bool = False
) -> dict[int, Path | str]:
    """Pretrain a teacher for each patch size, as many at once as the cluster has room for.

    A run whose workers die goes on from its last checkpoint, and so do all when the job is resumed.

    Args:
        settings: Arguments of :func:`anomalib_students.teacher.task.pretrain`, but for patch size, output and results.
        patch_sizes: Sides p of the patches in pixels.
        folder: Folder that all nodes share, for the teachers and their checkpoints.
        workers: Processes that train a teacher together.
        resume: Go on with the job in the folder, whose settings must be the same.

    Returns:
        For each patch size the teacher's file, or as a string what went wrong.

    Raises:
        FileExistsError: If there is a job in the folder, and it is not to be resumed.
        ValueError: If its settings were others, or the cluster lacks what the workers need.
    """
    everything = {**settings, "patch_sizes": list(patch_sizes), "workers": workers.number}
    check_settings(LocalFileSystem(), str(folder), everything, resume)
    tuner = Tuner(
        tune.with_resources(partial(_run, dict(settings), folder, workers, uuid4().hex), TRIAL_RESOURCES),
        param_space={"patch_size": tune.grid_search(list(patch_sizes))},
        tune_config=TuneConfig(max_concurrent_trials=workers.concurrent_groups()),
        run_config=RunConfig(
            storage_path=str(folder / "tune"), failure_config=FailureConfig(max_failures=workers.max_failures)
        ),
    )
    grid = tuner.fit()
    outcome: dict[int, Path | str] = {}
    for result in (grid[index] for index in range(len(grid))):
        patch_size = (result.config or {})["patch_size"]
        outcome[patch_size] = teacher_file(folder, patch_size) if result.error is None else cause(result.error)
    return outcome


def teacher_file(folder: Path, patch_size: int) -> Path:
    """Name the file of a teacher.

    Args:
        folder: Folder of the job.
        patch_size: Side p of the patches in pixels.

    Returns:
        Path of the file.
    """
    return folder / f"p{patch_size}.safetensors"


def _run(settings: dict[str, Any], folder: Path, workers: Workers, attempt: str, config: dict[str, Any]) -> None:
    patch_size = config["patch_size"]
    output = teacher_file(folder, patch_size)
    if output.exists():
        return
    arguments = {**settings, "patch_size": patch_size, "output": output, "results": folder, "gpus": workers.gpus}
    run_on_workers(_pretrain, arguments, workers, Run(str(folder / "train"), f"p{patch_size}", attempt))


def _pretrain(config: dict[str, Any]) -> None:
    """Pretrain on one of the workers."""
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from anomalib_students.teacher.task import pretrain

    from .reporting import ReportMetrics

    gpus = config.pop("gpus")
    pretrain(
        **config,
        resume=True,
        trainer_arguments={
            "accelerator": "gpu" if gpus else "cpu",
            "devices": "auto" if gpus else 1,
            "strategy": RayDDPStrategy(),
            "plugins": [RayLightningEnvironment()],
            "callbacks": [ReportMetrics()],
            "enable_progress_bar": False,
        },
    )
