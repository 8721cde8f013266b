"""Distillation from whole images: a teacher learns to predict, at each pixel, what larger networks see around it."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.patch_network import NEGATIVE_SLOPE
from anomalib_students.networks.statistics import effective_dimension
from anomalib_students.trainings import has_bfloat16

from .sources import GRID_STRIDE, FeatureSource
from .targets import Batch, DistillationData, DistilSettings
from .training import TeacherTraining, check_run, make_teacher, normalise

__all__ = ["Distillation", "distil", "valid_points"]

LARGEST_GRADIENT = 1.0
"""Norm to which larger gradients are clipped."""
WARM_UP_STEPS = 200
BETAS = (0.9, 0.99)
"""A run of some thousand steps is too short for Adam's usual memory of the second moments."""
FIRST_OUTPUT_SCALE = 0.5
"""Factor on the last layer's first weights, which no activation follows that would shorten the first descriptors."""
PIXEL_OF_POINT = GRID_STRIDE // 2
"""A point stands for an even number of pixels, of which none is in the middle: its patch is centred in the one that
follows the middle."""


def valid_points(side: int, patch_size: int) -> tuple[slice, slice]:
    """Find the points of the grid whose patches lie within a crop, and the pixels that these cover.

    Point i is at pixel 4 i + 2. Raises a ``ValueError`` if the crop has no room for a patch.

    Example:
        >>> valid_points(side=192, patch_size=33)
        (slice(4, 44, None), slice(2, 191, None))
    """
    border = patch_size // 2
    first = -(-(border - PIXEL_OF_POINT) // GRID_STRIDE)
    last = (side - 1 - border - PIXEL_OF_POINT) // GRID_STRIDE
    if last < first:
        msg = f"A crop of {side} pixels has no room for a patch of {patch_size} pixels."
        raise ValueError(msg)
    pixels = slice(GRID_STRIDE * first + PIXEL_OF_POINT - border, GRID_STRIDE * last + PIXEL_OF_POINT + border + 1)
    return slice(first, last + 1), pixels


class Distillation(TeacherTraining):
    """Train a patch network to predict targets on a grid, by the mean squared error of its descriptors.

    There is no decoder: the descriptors are themselves the predictions. The learning rate rises over the first steps,
    and decays to zero along a cosine.
    """

    def __init__(self, settings: DistilSettings, data: str = "") -> None:
        super().__init__(settings, data=data)
        convolutions = cast("list[nn.Conv2d]", list(self.teacher.convolutions))
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, a=NEGATIVE_SLOPE)
            nn.init.zeros_(cast("torch.Tensor", convolution.bias))
        with torch.no_grad():
            convolutions[-1].weight.mul_(FIRST_OUTPUT_SCALE)

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return descriptors and targets ``(B, d, n, n)`` in float32 at the points whose patches need no padding."""
        crops, targets = batch
        points, pixels = valid_points(crops.shape[-1], self.teacher.patch_size)
        images = normalise(crops[..., pixels, pixels] / 255)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
            descriptors = dense_descriptors(
                self.teacher, images.contiguous(memory_format=torch.channels_last), GRID_STRIDE, padded=True
            )
        return descriptors.float(), targets[..., points, points].float()

    def training_step(self, batch: Batch) -> torch.Tensor:
        """Compute the mean squared error."""
        loss = nn.functional.mse_loss(*self.predict(batch))
        self.log("distillation", loss, prog_bar=True, sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Reset the measurements."""
        super().on_validation_epoch_start()
        self._descriptors: list[torch.Tensor] = []

    def validation_step(self, batch: Batch) -> None:
        """Compare descriptors of held-out crops with their targets."""
        descriptors, targets = self.predict(batch)
        self.compare(descriptors, targets)
        self._descriptors.append(descriptors.movedim(1, -1).flatten(0, -2).cpu())

    def on_validation_epoch_end(self) -> None:
        """Log the measurements on the held-out crops.

        ``effective_dimension`` is the number of directions that the descriptors vary in, from 1 to d.
        """
        self.log_r2()
        covariance = torch.cat(self._descriptors).double().T.cov()
        self.log("effective_dimension", effective_dimension(covariance), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, its learning rate rising over the first steps, then decaying to zero over the run."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay
        )
        return self.decaying(optimizer, WARM_UP_STEPS)


def distil(**settings: Any) -> Path:
    """Distil networks that see whole images into a teacher.

    The targets are computed once, and kept for all teachers that are distilled from the same sources and photographs;
    their computation is resumed in any case. Networks compute in bfloat16 if the device has instructions for it.

    Args:
        settings: Those of :class:`DistilSettings`, by name.

    Returns:
        Path of the teacher file.

    Raises:
        FileNotFoundError: If images or weights of a source are missing.
        OSError: If targets, checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the weights of a source cannot be loaded, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, timm has no such model, or a setting is out of range.
    """
    task = DistilSettings(**settings)
    valid_points(task.crop_side, task.patch_size)
    n_images = len(check_run(task, "Distillation", least=2))
    seed_everything(task.seed)
    sources = {name: FeatureSource(name, path) for name, path in task.files.items()}
    for source in sources.values():
        source.check_side(task.crop_side)
    data = DistillationData(task, sources)
    if task.descriptor_dim > data.n_components:
        msg = (
            f"descriptor_dim must be at most the number of components, {data.n_components}, got {task.descriptor_dim}."
        )
        raise ValueError(msg)
    # The sources draw random weights first if they are loaded from files.
    seed_everything(task.seed, verbose=False)
    metadata = {
        "n_images": n_images,
        "task": "distillation from whole images",
        "source": ", ".join(task.files),
        "source_weights": ", ".join(str(task.weights[name]) for name in task.files),
        "crops": task.crops,
        "crop_side": task.crop_side,
        "components": data.n_components,
    }
    return make_teacher(Distillation(task, data=data.folder.name), metadata, data, gradient_clip_val=LARGEST_GRADIENT)
