"""The pretraining task: from a folder of images to a teacher file."""

from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from .images import ImageStore, load_images
from .pretraining import PretrainSettings, TeacherPretraining
from .run import check_run, make_teacher
from .source import DistillationSource

__all__ = ["pretrain"]

HELD_OUT_FRACTION = 0.05
"""Part of the images that no training patch comes from."""


def pretrain(**settings: Any) -> Path:
    """Pretrain a teacher on patches of natural images.

    Args:
        settings: Those of :class:`.pretraining.PretrainSettings`, by name.

    Returns:
        Path of the teacher file.

    Raises:
        FileNotFoundError: If images or checkpoint are missing.
        OSError: If checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the source's weights cannot be loaded, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, or a setting is out of range.
    """
    task = PretrainSettings(**settings)
    # Each part, the training and the held-out images, needs a different image for the negatives.
    least, reason = (4, " with triplets (lambda_m > 0)") if task.lambda_m else (2, "")
    paths = check_run(task, f"Pretraining{reason}", least)
    seed_everything(task.seed)
    source = (
        DistillationSource(task.source, task.source_checkpoint, task.source_layer, task.source_size)
        if task.lambda_k
        else None
    )
    pictures = load_images(paths, task.image_side)
    held_out_every = min(round(1 / HELD_OUT_FRACTION), len(pictures) * 2 // least)
    train_images = [picture for index, picture in enumerate(pictures) if index % held_out_every]
    module = TeacherPretraining(
        source, ImageStore.from_images(train_images), ImageStore.from_images(pictures[::held_out_every]), task
    )
    return make_teacher(module, {"n_images": len(pictures), **task.metadata}, precision=task.precision)
