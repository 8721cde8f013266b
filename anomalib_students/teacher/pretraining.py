"""Pretraining of a teacher: distillation, metric learning and descriptor compactness (Section 3.1)."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.model.loss import compactness_loss, distillation_loss, triplet_distances, triplet_loss
from anomalib_students.model.patch_network import Architecture, PatchNetwork
from anomalib_students.model.schedule import cosine_with_warm_up
from anomalib_students.model.statistics import RunningStatistics

from .images import ImageStore
from .patches import PatchSampler
from .run import BatchNumbers
from .source import DistillationSource

__all__ = ["TeacherPretraining"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STATISTICS_BATCHES = 64
"""Batches over which the source's descriptors are standardised."""
HELD_OUT_BATCHES = 16
"""Batches from the held-out images on which the teacher is measured."""
MEASURED_BATCH_SIZE = 64
"""Patches in each of these batches, on every number of devices."""
HELD_OUT_SEED = 1
"""Added to the seed of the training patches."""


class TeacherPretraining(LightningModule):
    """Train a patch network to describe patches (eq. 6).

    The descriptors of the source are standardised per dimension, so that eq. 1 weighs them alike. The learning rate
    decays to zero along a cosine. A loss whose weight is 0 is not computed.

    Args:
        source: Network P whose descriptors are distilled; ``None`` if ``lambda_k`` is 0.
        train_images: Images from which patches are drawn.
        held_out_images: Images from which the patches come that measure the teacher.
        patch_size: Side p of the patches: 17, 33 or 65.
        descriptor_dim: Dimension d of the teacher's descriptors.
        architecture: Architecture of the teacher.
        batch_size: Patches, or triplets, in a batch of one process.
        lambda_k: Weight of the distillation loss (eq. 1), at least 0.
        lambda_m: Weight of the metric learning loss (eq. 2), at least 0.
        lambda_c: Weight of the compactness loss (eq. 5), at least 0.
        margin: Margin delta of eq. 2, greater than 0.
        lr: Initial learning rate of Adam.
        weight_decay: Weight decay of Adam.
        seed: Seed of the patches.

    Raises:
        ValueError: If a weight is negative or all are 0, if the margin is not positive, if there is no source but
            ``lambda_k`` is not 0, or if triplets are to be drawn from a single image.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(
        self,
        source: DistillationSource | None,
        train_images: ImageStore,
        held_out_images: ImageStore,
        patch_size: int = 33,
        descriptor_dim: int = 128,
        architecture: Architecture = "paper",
        batch_size: int = 64,
        lambda_k: float = 1.0,
        lambda_m: float = 0.0,
        lambda_c: float = 1.0,
        margin: float = 1.0,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_loss_weights(lambda_k, lambda_m, lambda_c, margin)
        if lambda_k and source is None:
            msg = f"Distillation (lambda_k={lambda_k}) needs a source network."
            raise ValueError(msg)
        self.save_hyperparameters(ignore=["source", "train_images", "held_out_images"])
        # In a tuple, so that neither its weights nor its mode belong to this module: it is in no checkpoint.
        self._source: tuple[DistillationSource, ...] = (source,) if source is not None and lambda_k else ()
        self._train_images = train_images
        self._held_out_images = held_out_images
        self.teacher = PatchNetwork(patch_size, descriptor_dim, architecture)
        for network in self._source:
            self.decoder = nn.Linear(descriptor_dim, network.dim)
            self.register_buffer("target_mean", torch.zeros(network.dim))
            self.register_buffer("target_std", torch.ones(network.dim))

    def on_fit_start(self) -> None:
        """Move images and source to the device, and standardise the source's descriptors over the first batches.

        A checkpoint brings the statistics of its own run.
        """
        self._to_device()
        self._train_patches = self._sampler(
            self._train_images,
            self.hparams["batch_size"],
            triplets=bool(self.hparams["lambda_m"]),
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )
        for network in self._source if self.trainer.ckpt_path is None else ():
            # All processes see the same patches here, and so agree on the statistics.
            sampler = self._sampler(self._train_images, MEASURED_BATCH_SIZE, triplets=False)
            statistics = RunningStatistics(self.target_mean.numel())
            for number in range(STATISTICS_BATCHES):
                statistics.update(network(self._normalise(sampler.draw(number)[0])))
            self.target_mean.copy_(statistics.mean)
            self.target_std.copy_(statistics.std.clamp_min(1e-6))

    def on_validation_start(self) -> None:
        """Move images and source to the device, where no fit has done so."""
        self._to_device()
        self._held_out_patches = self._sampler(
            self._held_out_images, MEASURED_BATCH_SIZE, HELD_OUT_SEED, triplets=bool(self.hparams["lambda_m"])
        )

    def train_dataloader(self) -> DataLoader:
        """Number the batches that follow the last step."""
        return DataLoader(BatchNumbers(self.global_step, self.trainer.max_steps), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """Number the held-out batches, the same at every call."""
        return DataLoader(BatchNumbers(0, HELD_OUT_BATCHES), batch_size=None)

    def training_step(self, number: int) -> torch.Tensor:
        """Compute the loss of eq. 6 on a batch of random patches.

        Args:
            number: Number of the batch.

        Returns:
            The loss, a scalar.
        """
        loss, terms = self.loss(self._train_patches.draw(number))
        self.log_dict(terms, prog_bar=True, sync_dist=True)
        return loss

    def loss(self, patches: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of eq. 6.

        Args:
            patches: Patches of shape ``(1, B, 3, p, p)``, or with metric learning triplets of shape
                ``(3, B, 3, p, p)``, as drawn.

        Returns:
            The loss, a scalar, and its terms before they are weighted, by name; those with weight 0 are left out.
        """
        patches = self._normalise(patches)
        descriptors = self._describe(patches)
        terms = {}
        if self._source:
            terms["distillation"] = distillation_loss(self._decode(descriptors[0]), self._target(patches[0]))
        if self.hparams["lambda_m"]:
            anchors, positives, negatives = descriptors.float()
            terms["triplet"] = triplet_loss(anchors, positives, negatives, self.hparams["margin"])
        if self.hparams["lambda_c"]:
            terms["compactness"] = compactness_loss(descriptors[0].float())
        weights = {"distillation": "lambda_k", "triplet": "lambda_m", "compactness": "lambda_c"}
        return torch.stack([self.hparams[weights[name]] * term for name, term in terms.items()]).sum(), terms

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._squared_errors = 0.0
        self._squared_targets = 0.0
        self._n_ordered = 0

    def validation_step(self, number: int) -> None:
        """Compare decoded descriptors of held-out patches with the source's, and order held-out triplets.

        Args:
            number: Number of the batch.
        """
        patches = self._normalise(self._held_out_patches.draw(number))
        descriptors = self._describe(patches)
        if self._source:
            target = self._target(patches[0])
            self._squared_errors += float((self._decode(descriptors[0]) - target).square().sum())
            self._squared_targets += float(target.square().sum())
        if self.hparams["lambda_m"]:
            anchors, positives, negatives = descriptors.float()
            positive_distance, negative_distance = triplet_distances(anchors, positives, negatives)
            self._n_ordered += int((positive_distance < negative_distance).sum())

    def on_validation_epoch_end(self) -> None:
        """Log what the teacher has learnt, as measured on the held-out images.

        ``held_out_r2`` is the part of the source's variance that the teacher explains, at most 1; ``held_out_triplets``
        is the part of triplets whose positive is nearer than the negative (eqs. 3 and 4).
        """
        if self._source:
            self.log("held_out_r2", 1 - self._squared_errors / self._squared_targets, prog_bar=True)
        if self.hparams["lambda_m"]:
            self.log("held_out_triplets", self._n_ordered / (HELD_OUT_BATCHES * MEASURED_BATCH_SIZE), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its learning rate decaying to zero over the run."""
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
        )
        factor = partial(cosine_with_warm_up, steps=self.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _to_device(self) -> None:
        for network in self._source:
            network.to(self.device)
        self._train_images = self._train_images.to(self.device)
        self._held_out_images = self._held_out_images.to(self.device)

    def _sampler(self, images: ImageStore, batch_size: int, seed: int = 0, **options: Any) -> PatchSampler:
        return PatchSampler(images, self.teacher.patch_size, batch_size, self.hparams["seed"] + seed, **options)

    def _normalise(self, patches: torch.Tensor) -> torch.Tensor:
        return transforms.normalize(patches, IMAGENET_MEAN, IMAGENET_STD)

    def _describe(self, patches: torch.Tensor) -> torch.Tensor:
        """Describe patches of shape (n, B, 3, p, p) in one pass: descriptors of shape (n, B, d)."""
        batch = patches.flatten(0, 1)
        return self.teacher(batch).flatten(1).unflatten(0, patches.shape[:2])

    def _decode(self, descriptors: torch.Tensor) -> torch.Tensor:
        return self.decoder(descriptors).float()

    def _target(self, patches: torch.Tensor) -> torch.Tensor:
        return (self._source[0](patches).float() - self.target_mean) / self.target_std


def check_loss_weights(lambda_k: float, lambda_m: float, lambda_c: float, margin: float) -> None:
    """Refuse weights of eq. 6 that cannot be trained with.

    Args:
        lambda_k: Weight of the distillation loss.
        lambda_m: Weight of the metric learning loss.
        lambda_c: Weight of the compactness loss.
        margin: Margin of the metric learning loss.

    Raises:
        ValueError: If a weight is negative or not finite, if all are 0, or if the margin is not positive.
    """
    weights = (lambda_k, lambda_m, lambda_c)
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        msg = (
            "The loss weights must be at least 0, and not all 0: "
            f"lambda_k={lambda_k}, lambda_m={lambda_m}, lambda_c={lambda_c}."
        )
        raise ValueError(msg)
    if not 0 < margin < float("inf"):
        msg = f"The margin of the triplet loss must be greater than 0, got {margin}."
        raise ValueError(msg)
