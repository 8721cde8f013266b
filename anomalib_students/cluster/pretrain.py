"""Pretrain a teacher for each patch size, each as a run of Ray Train."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from jsonargparse import Namespace

from anomalib_students.networks.patch_network import check_architecture
from anomalib_students.teacher.pretrain import PretrainSettings

from .fit import pretrain_together
from .workers import run_on_workers, run_tasks


def pretrain_teachers(settings: Namespace, pretraining: Mapping[str, Any]) -> dict[int, tuple[str | None, str | None]]:
    """Pretrain the missing teachers; return, by patch size, the path of the file and the reason of failure or None.

    Raises a ``ValueError`` if the storage path is a bucket's, or its folder has a job of other settings.
    """
    folder = settings.storage.folder
    settings.storage.begin({**pretraining, "workers": settings.workers})
    sizes = {f"p = {size}": size for size in sorted(settings.patch_sizes)}
    tasks = (
        (label, pretrain_teacher.remote(settings, pretraining, size, folder), True) for label, size in sizes.items()
    )
    return {sizes[label]: (file, reason) for label, file, reason in run_tasks(tasks, len(sizes), settings)}


@ray.remote(num_cpus=0)
def pretrain_teacher(settings: Namespace, pretraining: Mapping[str, Any], patch_size: int, folder: Path) -> str:
    """Pretrain a teacher on a group of workers, unless its file is there; return the path of the file."""
    output = folder / f"p{patch_size}.safetensors"
    if not output.is_file():
        arguments = {**pretraining, "patch_size": patch_size, "output": output, "results": folder}
        # Errors of workers are taken for accidents, and tried again.
        check_architecture(PretrainSettings(**arguments).architecture, patch_size)
        config = {"settings": settings, "pretraining": arguments}
        run_on_workers(pretrain_together, config, settings, f"{folder}/train", output.stem)
    return str(output)
