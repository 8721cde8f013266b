"""Common parts of the Lightning modules that train a teacher."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.model.schedule import cosine_with_warm_up
from anomalib_students.networks.patch_network import PatchNetwork

from .settings import TeacherSettings

__all__ = ["BatchNumbers", "TeacherTraining", "normalise"]


class BatchNumbers(IterableDataset):
    """Numbers of the batches that are still to be drawn, of ``total`` in the whole run."""

    def __init__(self, first: int, total: int) -> None:
        self.first = first
        self.total = total

    def __iter__(self) -> Iterator[int]:
        """Count from the first batch to the last."""
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        """Count the batches of the whole run, those before the first too, as the progress bar does."""
        return self.total


class TeacherTraining(LightningModule):
    """Base of the modules that train a teacher to predict targets.

    Checkpoints record the settings' hyperparameters and ``recorded``, so that a run is not resumed with others.
    """

    def __init__(self, settings: TeacherSettings, **recorded: Any) -> None:
        super().__init__()
        self.save_hyperparameters({**settings.hyperparameters, **recorded})
        self.settings = settings
        self.teacher = PatchNetwork(settings.patch_size, settings.descriptor_dim, settings.architecture)

    def on_validation_epoch_start(self) -> None:
        """Reset the measurements."""
        self._squared_errors = 0.0
        self._squared_targets = 0.0

    def compare(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        """Add predictions of held-out targets to the measurement."""
        self._squared_errors += float((predictions - targets).square().sum())
        self._squared_targets += float(targets.square().sum())

    def log_r2(self) -> None:
        """Log ``held_out_r2``, the part of the targets' variance that the teacher explains, at most 1."""
        self.log("held_out_r2", 1 - self._squared_errors / self._squared_targets, prog_bar=True)

    def decaying(self, optimizer: torch.optim.Optimizer, warm_up: int = 0) -> OptimizerLRScheduler:
        """Let the learning rate rise over some steps, then decay to zero over the run."""
        factor = partial(cosine_with_warm_up, steps=self.trainer.max_steps, warm_up=warm_up)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Normalise images with values in [0, 1] as for ImageNet."""
    return transforms.normalize(images, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
