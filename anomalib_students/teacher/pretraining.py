"""Pretraining of a teacher: distillation and descriptor compactness on random patches (Section 3.1)."""

from collections.abc import Sequence
from typing import cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.loss import compactness_loss, distillation_loss
from anomalib_students.patch_network import PatchNetwork
from anomalib_students.statistics import RunningStatistics

from .patches import PatchStream
from .source import DistillationSource

__all__ = ["TeacherPretraining"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STATISTICS_BATCHES = 64
"""Batches over which the source's descriptors are standardised."""
HELD_OUT_BATCHES = 16
"""Batches from the held-out images on which the distillation is measured."""
HELD_OUT_SEED = 1
"""Added to the seed of the training patches."""


class TeacherPretraining(LightningModule):
    """Train a patch network to hold what a powerful network knows of patches (eqs. 1, 5 and 6).

    The descriptors of the source are standardised per dimension, so that eq. 1 weighs them alike. The learning rate
    decays to zero along a cosine.

    Args:
        source: Network P whose descriptors are distilled.
        train_images: Images of shape ``(3, H, W)`` in uint8 from which patches are drawn.
        held_out_images: Images from which the patches come that measure the distillation.
        patch_size: Side p of the patches: 17, 33 or 65.
        descriptor_dim: Dimension d of the teacher's descriptors.
        batch_size: Patches in a batch.
        lambda_k: Weight of the distillation loss, at least 0.
        lambda_c: Weight of the compactness loss, at least 0.
        lr: Initial learning rate of Adam.
        weight_decay: Weight decay of Adam.
        seed: Seed of the patches.

    Raises:
        ValueError: If a weight is negative, or both are 0.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(
        self,
        source: DistillationSource,
        train_images: Sequence[torch.Tensor],
        held_out_images: Sequence[torch.Tensor],
        patch_size: int = 33,
        descriptor_dim: int = 128,
        batch_size: int = 64,
        lambda_k: float = 1.0,
        lambda_c: float = 1.0,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(lambda_k, lambda_c) < 0 or lambda_k + lambda_c == 0:
            msg = f"The loss weights must not be negative, nor all 0: lambda_k={lambda_k}, lambda_c={lambda_c}."
            raise ValueError(msg)
        self.save_hyperparameters(ignore=["source", "train_images", "held_out_images"])
        # In a tuple, so that neither its weights nor its mode belong to this module: it is in no checkpoint.
        self._source = (source,)
        self._train_images = train_images
        self._held_out_images = held_out_images
        self.teacher = PatchNetwork(patch_size, descriptor_dim)
        self.decoder = nn.Linear(descriptor_dim, source.dim)
        self.register_buffer("target_mean", torch.zeros(source.dim))
        self.register_buffer("target_std", torch.ones(source.dim))

    def on_fit_start(self) -> None:
        """Standardise the source's descriptors over the first batches."""
        self._source[0].to(self.device)
        statistics = RunningStatistics(self.target_mean.numel())
        stream = self._stream(self._train_images, self.hparams["seed"])
        for number in range(STATISTICS_BATCHES):
            patches = self._normalise(stream.draw_batch(number).to(self.device))
            statistics.update(self._source[0](patches))
        self.target_mean.copy_(statistics.mean)
        self.target_std.copy_(statistics.std.clamp_min(1e-6))

    def train_dataloader(self) -> DataLoader:
        """Draw the batches that follow the last step."""
        return DataLoader(
            self._stream(self._train_images, self.hparams["seed"], first_batch=self.global_step),
            batch_size=None,
        )

    def val_dataloader(self) -> DataLoader:
        """Draw the same held-out patches at every call."""
        stream = self._stream(self._held_out_images, self.hparams["seed"] + HELD_OUT_SEED)
        batches = [stream.draw_batch(number) for number in range(HELD_OUT_BATCHES)]
        return DataLoader(cast("Dataset", batches), batch_size=None)

    def training_step(self, patches: torch.Tensor) -> torch.Tensor:
        """Compute the loss of eq. 6 without its metric learning term.

        Args:
            patches: Patches of shape ``(B, 3, p, p)`` in uint8.

        Returns:
            The loss, a scalar.
        """
        patches = self._normalise(patches)
        descriptors, decoded = self._describe(patches)
        distillation = distillation_loss(decoded, self._target(patches))
        compactness = compactness_loss(descriptors)
        self.log_dict({"distillation": distillation, "compactness": compactness}, prog_bar=True)
        return self.hparams["lambda_k"] * distillation + self.hparams["lambda_c"] * compactness

    def on_validation_epoch_start(self) -> None:
        """Forget the errors of the last validation."""
        self._squared_errors = 0.0
        self._squared_targets = 0.0

    def validation_step(self, patches: torch.Tensor) -> None:
        """Compare decoded descriptors of held-out patches with the source's.

        Args:
            patches: Patches of shape ``(B, 3, p, p)`` in uint8.
        """
        patches = self._normalise(patches)
        target = self._target(patches)
        self._squared_errors += float((self._describe(patches)[1] - target).square().sum())
        self._squared_targets += float(target.square().sum())

    def on_validation_epoch_end(self) -> None:
        """Log the held-out R2: the part of the source's variance that the teacher explains, at most 1."""
        self.log("held_out_r2", 1 - self._squared_errors / self._squared_targets, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its learning rate decaying to zero over the run."""
        optimizer = torch.optim.Adam(
            [*self.teacher.parameters(), *self.decoder.parameters()],
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _stream(self, images: Sequence[torch.Tensor], seed: int, first_batch: int = 0) -> PatchStream:
        return PatchStream(images, self.teacher.patch_size, self.hparams["batch_size"], seed, first_batch)

    def _normalise(self, patches: torch.Tensor) -> torch.Tensor:
        return transforms.normalize(patches.float() / 255, IMAGENET_MEAN, IMAGENET_STD)

    def _describe(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        descriptors = self.teacher(patches).flatten(1)
        return descriptors.float(), self.decoder(descriptors).float()

    def _target(self, patches: torch.Tensor) -> torch.Tensor:
        return (self._source[0](patches).float() - self.target_mean) / self.target_std
