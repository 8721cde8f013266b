"""Distillation from whole images: a teacher learns to predict, at each pixel, what larger networks see around it."""

from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.engine.precision import has_bfloat16
from anomalib_students.model.covariance import RunningCovariance, effective_dimension
from anomalib_students.model.dense import dense_descriptors
from anomalib_students.model.patch_network import NEGATIVE_SLOPE, Architecture, PatchNetwork
from anomalib_students.model.schedule import cosine_with_warm_up

from .distillation_data import Batch
from .feature_source import GRID_STRIDE
from .pretraining import IMAGENET_MEAN, IMAGENET_STD

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
    """Find the points of the grid whose patches lie within a crop.

    Args:
        side: Side of the crop in pixels.
        patch_size: Side p of the patches.

    Returns:
        The points in each direction, point i at pixel 4 i + 2; and the pixels that their patches cover.

    Raises:
        ValueError: If there are none.

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


class Distillation(LightningModule):
    """Train a patch network to predict targets on a grid, by the mean squared error of its descriptors.

    There is no decoder: the descriptors are themselves the predictions. The learning rate rises over the first steps,
    and decays to zero along a cosine.

    Args:
        patch_size: Side p of the patches: 17, 33 or 65.
        descriptor_dim: Dimension d of the descriptors and of the targets.
        architecture: Architecture of the teacher.
        lr: Greatest learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        recorded: What else the result of the run depends on, kept in its checkpoints, so that it is not resumed with
            anything else.

    Raises:
        ValueError: If there is no such architecture for ``patch_size``.
    """

    def __init__(
        self,
        patch_size: int = 33,
        descriptor_dim: int = 128,
        architecture: Architecture = "paper",
        lr: float = 1e-3,
        weight_decay: float = 1e-5,
        **recorded: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.teacher = PatchNetwork(patch_size, descriptor_dim, architecture)
        convolutions = cast("list[nn.Conv2d]", list(self.teacher.convolutions))
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, a=NEGATIVE_SLOPE)
            nn.init.zeros_(cast("torch.Tensor", convolution.bias))
        with torch.no_grad():
            convolutions[-1].weight.mul_(FIRST_OUTPUT_SCALE)

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Describe the patches of crops that need no padding.

        Args:
            batch: Crops of shape ``(B, 3, S, S)`` in uint8, and targets of shape ``(B, d, S / 4, S / 4)``.

        Returns:
            Descriptors and targets at the same n x n points, each of shape ``(B, d, n, n)`` in float32.
        """
        crops, targets = batch
        points, pixels = valid_points(crops.shape[-1], self.teacher.patch_size)
        images = transforms.normalize(crops[..., pixels, pixels] / 255, IMAGENET_MEAN, IMAGENET_STD)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
            descriptors = dense_descriptors(
                self.teacher, images.contiguous(memory_format=torch.channels_last), GRID_STRIDE, padded=True
            )
        return descriptors.float(), targets[..., points, points].float()

    def training_step(self, batch: Batch) -> torch.Tensor:
        """Compute the mean squared error on a batch.

        Args:
            batch: Crops and targets.

        Returns:
            The loss, a scalar.
        """
        loss = nn.functional.mse_loss(*self.predict(batch))
        self.log("distillation", loss, prog_bar=True, sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._squared_errors = 0.0
        self._squared_targets = 0.0
        self._statistics = RunningCovariance(self.teacher.descriptor_dim)

    def validation_step(self, batch: Batch) -> None:
        """Compare descriptors of held-out crops with their targets.

        Args:
            batch: Crops and targets.
        """
        descriptors, targets = self.predict(batch)
        self._squared_errors += float((descriptors - targets).square().sum())
        self._squared_targets += float(targets.square().sum())
        self._statistics.update(descriptors.movedim(1, -1).flatten(0, -2))

    def on_validation_epoch_end(self) -> None:
        """Log what the teacher has learnt, as measured on the held-out crops.

        ``held_out_r2`` is the part of the targets' variance that the teacher explains, at most 1;
        ``effective_dimension`` is the number of directions that its descriptors vary in, from 1 to d.
        """
        self.log("held_out_r2", 1 - self._squared_errors / self._squared_targets, prog_bar=True)
        self.log("effective_dimension", effective_dimension(self._statistics.covariance), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, its learning rate rising over the first steps, then decaying to zero over the run."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.hparams["lr"], betas=BETAS, weight_decay=self.hparams["weight_decay"]
        )
        factor = partial(cosine_with_warm_up, steps=self.trainer.max_steps, warm_up=WARM_UP_STEPS)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
