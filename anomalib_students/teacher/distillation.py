"""Distillation from whole images: a teacher learns to predict, at each pixel, what larger networks see around it."""

from typing import cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from anomalib_students.engine.precision import has_bfloat16
from anomalib_students.model.statistics import RunningStatistics, effective_dimension
from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.patch_network import NEGATIVE_SLOPE

from .distillation_data import Batch
from .feature_source import GRID_STRIDE
from .settings import TeacherSettings
from .training import TeacherTraining, normalise

__all__ = ["Distillation", "valid_points"]

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

    def __init__(self, settings: TeacherSettings, data: str = "") -> None:
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
        self._statistics = RunningStatistics(self.teacher.descriptor_dim, covariance=True)

    def validation_step(self, batch: Batch) -> None:
        """Compare descriptors of held-out crops with their targets."""
        descriptors, targets = self.predict(batch)
        self.compare(descriptors, targets)
        self._statistics.update(descriptors.movedim(1, -1).flatten(0, -2))

    def on_validation_epoch_end(self) -> None:
        """Log the measurements on the held-out crops.

        ``effective_dimension`` is the number of directions that the descriptors vary in, from 1 to d.
        """
        self.log_r2()
        self.log("effective_dimension", effective_dimension(self._statistics.covariance), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, its learning rate rising over the first steps, then decaying to zero over the run."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay
        )
        return self.decaying(optimizer, WARM_UP_STEPS)
