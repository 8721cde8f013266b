"""Pretraining of a teacher: distillation, metric learning and descriptor compactness (Section 3.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.utils.data import DataLoader

from anomalib_students.engine.precision import Precision
from anomalib_students.model.statistics import RunningStatistics

from .images import ImageStore
from .loss import compactness_loss, distillation_loss, triplet_distances, triplet_loss
from .patches import PatchSampler
from .settings import TeacherSettings
from .source import DistillationSource
from .training import BatchNumbers, TeacherTraining, normalise

__all__ = ["LOSS_WEIGHTS", "PAPER_WEIGHTS", "PretrainSettings", "TeacherPretraining"]

LOSS_WEIGHTS = {"distillation": "lambda_k", "triplet": "lambda_m", "compactness": "lambda_c"}
"""Settings that weigh the terms of eq. 6."""
PAPER_WEIGHTS = ((1, 0, 1), (1, 1, 1), (0, 1, 1), (1, 0, 0))
"""Weights that the paper compares (Table 2), in the order of :data:`LOSS_WEIGHTS`."""
STATISTICS_BATCHES = 64
"""Batches over which the source's descriptors are standardised."""
HELD_OUT_BATCHES = 16
"""Batches from the held-out images on which the teacher is measured."""
MEASURED_BATCH_SIZE = 64
"""Patches in each of these batches, on every number of devices."""
HELD_OUT_SEED = 1
"""Added to the seed of the training patches."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TeacherSettings):
    """Settings of the pretraining by the loss of eq. 6.

    Raises:
        ValueError: If a loss weight is negative or not finite, if all are 0, or if the margin is not positive.
    """

    recorded: ClassVar[tuple[str, ...]] = (*TeacherSettings.recorded, *LOSS_WEIGHTS.values(), "margin")

    max_steps: int = 50_000
    """Training steps."""
    batch_size: int = 64
    """Patches, or triplets, in a step on each device."""
    lr: float = 2e-4
    """Initial learning rate of Adam; it decays to zero along a cosine."""
    lambda_k: float = 1.0
    """Weight of the distillation loss (eq. 1). With 0 there is no source, and the teacher supervises itself."""
    lambda_m: float = 0.0
    """Weight of the metric learning loss on triplets (eq. 2)."""
    lambda_c: float = 1.0
    """Weight of the compactness loss (eq. 5)."""
    margin: float = 1.0
    """Margin delta of the metric learning loss."""
    source: str = "resnet18"
    """Name of the timm model whose knowledge is distilled, or bundled for this package's own for p = 33."""
    source_checkpoint: Path | None = None
    """Weights of that model. By default timm downloads its pretrained weights."""
    source_layer: str | None = None
    """Layer of that model whose pooled features are distilled, such as layer3. By default the model's own pooled
    feature vector."""
    source_size: int = 64
    """Side in pixels at which that model sees a patch."""
    image_side: int = 256
    """Images are kept in memory with their shorter side at most this many pixels long."""
    precision: Precision = "32-true"
    """Arithmetic of the networks."""

    def __post_init__(self) -> None:
        """Check the loss weights and the margin."""
        weights = self.loss_weights
        if not all(0 <= weight < float("inf") for weight in weights.values()) or not any(weights.values()):
            given = ", ".join(f"{name}={weight}" for name, weight in weights.items())
            msg = f"The loss weights must be at least 0, and not all 0: {given}."
            raise ValueError(msg)
        if not 0 < self.margin < float("inf"):
            msg = f"The margin of the triplet loss must be greater than 0, got {self.margin}."
            raise ValueError(msg)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of eq. 6, by name."""
        return {name: getattr(self, name) for name in LOSS_WEIGHTS.values()}

    @property
    def metadata(self) -> dict[str, object]:
        """Source and loss, for the teacher file's metadata."""
        distilled = {
            "source": self.source,
            "source_layer": self.source_layer or "pooled features",
            "source_size": self.source_size,
        }
        return {
            **(distilled if self.lambda_k else {"source": "none"}),
            **self.loss_weights,
            **({"margin": self.margin} if self.lambda_m else {}),
        }


class TeacherPretraining(TeacherTraining):
    """Train a patch network to describe patches (eq. 6).

    The descriptors of the source are standardised per dimension, so that eq. 1 weighs them alike. The learning rate
    decays to zero along a cosine. A loss whose weight is 0 is not computed: without ``lambda_k``, there is no source.
    """

    settings: PretrainSettings
    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(
        self,
        source: DistillationSource | None,
        train_images: ImageStore,
        held_out_images: ImageStore,
        settings: PretrainSettings,
    ) -> None:
        super().__init__(settings)
        if settings.lambda_k and source is None:
            msg = f"Distillation (lambda_k={settings.lambda_k}) needs a source network."
            raise ValueError(msg)
        # In a tuple, so that neither its weights nor its mode belong to this module: it is in no checkpoint.
        self._source: tuple[DistillationSource, ...] = (source,) if source is not None and settings.lambda_k else ()
        self._train_images = train_images
        self._held_out_images = held_out_images
        for network in self._source:
            self.decoder = nn.Linear(settings.descriptor_dim, network.dim)
            self.register_buffer("target_mean", torch.zeros(network.dim))
            self.register_buffer("target_std", torch.ones(network.dim))

    def on_fit_start(self) -> None:
        """Move images and source to the device, and standardise the source's descriptors over the first batches.

        A checkpoint brings the statistics of its own run.
        """
        self._to_device()
        self._train_patches = self._sampler(
            self._train_images,
            self.settings.batch_size,
            triplets=bool(self.settings.lambda_m),
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )
        for network in self._source if self.trainer.ckpt_path is None else ():
            # All processes see the same patches here, and so agree on the statistics.
            sampler = self._sampler(self._train_images, MEASURED_BATCH_SIZE, triplets=False)
            statistics = RunningStatistics(self.target_mean.numel())
            for number in range(STATISTICS_BATCHES):
                statistics.update(network(normalise(sampler.draw(number)[0])))
            self.target_mean.copy_(statistics.mean)
            self.target_std.copy_(statistics.std.clamp_min(1e-6))

    def on_validation_start(self) -> None:
        """Make the held-out patches drawable on the device, also without a fit."""
        self._to_device()
        self._held_out_patches = self._sampler(
            self._held_out_images, MEASURED_BATCH_SIZE, HELD_OUT_SEED, triplets=bool(self.settings.lambda_m)
        )

    def train_dataloader(self) -> DataLoader:
        """Number the batches that follow the last step."""
        return DataLoader(BatchNumbers(self.global_step, self.trainer.max_steps), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """Number the held-out batches, the same at every call."""
        return DataLoader(BatchNumbers(0, HELD_OUT_BATCHES), batch_size=None)

    def training_step(self, number: int) -> torch.Tensor:
        """Compute the loss of eq. 6 on the random patches of a batch."""
        loss, terms = self.loss(self._train_patches.draw(number))
        self.log_dict(terms, prog_bar=True, sync_dist=True)
        return loss

    def loss(self, patches: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of eq. 6 on patches as drawn, and its unweighted terms by name.

        Terms with weight 0 are left out.
        """
        patches = normalise(patches)
        descriptors = self._describe(patches)
        terms = {}
        if self._source:
            terms["distillation"] = distillation_loss(self._decode(descriptors[0]), self._target(patches[0]))
        if self.settings.lambda_m:
            anchors, positives, negatives = descriptors.float()
            terms["triplet"] = triplet_loss(anchors, positives, negatives, self.settings.margin)
        if self.settings.lambda_c:
            terms["compactness"] = compactness_loss(descriptors[0].float())
        weighted = [getattr(self.settings, LOSS_WEIGHTS[name]) * term for name, term in terms.items()]
        return torch.stack(weighted).sum(), terms

    def on_validation_epoch_start(self) -> None:
        """Reset the measurements."""
        super().on_validation_epoch_start()
        self._n_ordered = 0

    def validation_step(self, number: int) -> None:
        """Compare decoded descriptors of held-out patches with the source's, and order held-out triplets."""
        patches = normalise(self._held_out_patches.draw(number))
        descriptors = self._describe(patches)
        if self._source:
            self.compare(self._decode(descriptors[0]), self._target(patches[0]))
        if self.settings.lambda_m:
            anchors, positives, negatives = descriptors.float()
            positive_distance, negative_distance = triplet_distances(anchors, positives, negatives)
            self._n_ordered += int((positive_distance < negative_distance).sum())

    def on_validation_epoch_end(self) -> None:
        """Log the measurements on the held-out images.

        ``held_out_triplets`` is the part of triplets whose positive is nearer than the negative (eqs. 3 and 4).
        """
        if self._source:
            self.log_r2()
        if self.settings.lambda_m:
            self.log("held_out_triplets", self._n_ordered / (HELD_OUT_BATCHES * MEASURED_BATCH_SIZE), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its learning rate decaying to zero over the run."""
        settings = self.settings
        return self.decaying(torch.optim.Adam(self.parameters(), lr=settings.lr, weight_decay=settings.weight_decay))

    def _to_device(self) -> None:
        for network in self._source:
            network.to(self.device)
        self._train_images = self._train_images.to(self.device)
        self._held_out_images = self._held_out_images.to(self.device)

    def _sampler(self, images: ImageStore, batch_size: int, seed: int = 0, **options: Any) -> PatchSampler:
        return PatchSampler(images, self.teacher.patch_size, batch_size, self.settings.seed + seed, **options)

    def _describe(self, patches: torch.Tensor) -> torch.Tensor:
        """Describe patches of shape (n, B, 3, p, p) in one pass: descriptors of shape (n, B, d)."""
        batch = patches.flatten(0, 1)
        return self.teacher(batch).flatten(1).unflatten(0, patches.shape[:2])

    def _decode(self, descriptors: torch.Tensor) -> torch.Tensor:
        return self.decoder(descriptors).float()

    def _target(self, patches: torch.Tensor) -> torch.Tensor:
        return (self._source[0](patches).float() - self.target_mean) / self.target_std
