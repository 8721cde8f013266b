"""Pretrain a teacher for each patch size on a Ray cluster, each as a run of Ray Train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .jobs import Compute, Job, OnProgress
from .ray_executor import OnRay
from .run import run_and_report
from .storage import Storage, begin
from .workers import Run, Workers, run_on_workers

__all__ = ["pretrain_teachers"]


def pretrain_teachers(
    settings: Mapping[str, Any], patch_sizes: Sequence[int], folder: Path, workers: Workers, resume: bool = False
) -> dict[int, Path | str]:
    """Pretrain a teacher for each patch size, as many at once as the cluster has room for.

    A run is resumed from its last checkpoint if its workers die, or if the job is resumed.

    Args:
        settings: Arguments of :func:`~anomalib_students.teacher.pretrain.pretrain` but patch size, output and results.
        patch_sizes: Sides p of the patches in pixels.
        folder: Folder for teachers and checkpoints that all nodes share.
        workers: Processes that train a teacher together.
        resume: Whether to resume the job in the folder.

    Returns:
        The file of each patch size's teacher, or the reason of its failure as a string.

    Raises:
        FileExistsError: If there is a job in the folder, and ``resume`` is false.
        ValueError: If the job had other settings, or the cluster lacks the resources of the workers.
    """
    storage = Storage(str(folder))
    workers.check_room()
    begin(storage, {**settings, "patch_sizes": list(patch_sizes), "workers": workers.number}, resume)
    jobs = {
        size: Job(f"p{size}", f"p = {size}", partial(_run, dict(settings), size, workers), has_workers=True)
        for size in patch_sizes
    }
    failures = run_and_report(
        storage,
        list(jobs.values()),
        lambda _, on_progress: OnRay(storage, workers, on_progress),
        lambda *_: {},
        what="teachers",
    )
    return {size: failures.get(job.label) or _file(folder, size) for size, job in jobs.items()}


def _file(folder: Path, patch_size: int) -> Path:
    return folder / f"p{patch_size}.safetensors"


def _run(
    settings: dict[str, Any],
    patch_size: int,
    workers: Workers,
    storage: Storage,
    compute: Compute,
    on_progress: OnProgress,
) -> dict[str, Any]:
    del on_progress
    output = _file(storage.folder, patch_size)
    arguments = {**settings, "patch_size": patch_size, "output": output, "results": storage.folder}
    run = Run(Storage(f"{storage.location}/train"), f"p{patch_size}")
    run_on_workers(_pretrain, {**arguments, "accelerator": compute.accelerator}, workers, run)
    return {"teacher": str(output)}


def _pretrain(config: dict[str, Any]) -> None:
    """Pretrain on one of the workers."""
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from anomalib_students.teacher.pretrain import pretrain

    accelerator = config.pop("accelerator")
    pretrain(
        **config,
        resume=True,
        trainer_arguments={
            "accelerator": accelerator,
            "devices": "auto" if accelerator == "gpu" else 1,
            "strategy": RayDDPStrategy(),
            "plugins": [RayLightningEnvironment()],
            "enable_progress_bar": False,
        },
    )
