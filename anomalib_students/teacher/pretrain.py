"""Pretraining of a teacher on patches: distillation, metric learning and compactness (Section 3.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.utils.data import DataLoader

from anomalib_students.trainings import WEIGHT_DECAY

from .data import ImageStore, PatchSampler, load_images
from .losses import compactness_loss, distillation_loss, triplet_distances, triplet_loss
from .sources import DistillationSource
from .training import TeacherSettings, TeacherTraining, check_run, make_teacher, normalise

LOSS_WEIGHTS = {"distillation": "lambda_k", "triplet": "lambda_m", "compactness": "lambda_c"}
"""Settings that weigh the terms of eq. 6."""
PAPER_WEIGHTS = ((1, 0, 1), (1, 1, 1), (0, 1, 1), (1, 0, 0))
"""Weights that the paper compares (Table 2), in the order of :data:`LOSS_WEIGHTS`."""
STATISTICS_BATCHES = 64
HELD_OUT_BATCHES = 16
MEASURED_BATCH_SIZE = 64  # Patches in each of these batches, whose number does not depend on that of devices.
HELD_OUT_SEED = 1
HELD_OUT_FRACTION = 0.05  # Fraction of the images that no training patch comes from.


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TeacherSettings):
    """Settings of :func:`pretrain`. Raises a ``ValueError`` if weights or margin make no loss of eq. 6."""

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

    def __post_init__(self) -> None:
        """Check the loss weights and the margin."""
        weights = self.loss_weights
        if not all(0 <= weight < float("inf") for weight in weights.values()) or not any(weights.values()):
            given = ", ".join(f"{name}={weight}" for name, weight in weights.items())
            raise ValueError(f"The loss weights must be at least 0, and not all 0: {given}.")
        if not 0 < self.margin < float("inf"):
            raise ValueError(f"The margin of the triplet loss must be greater than 0, got {self.margin}.")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of eq. 6, by name."""
        return {name: getattr(self, name) for name in LOSS_WEIGHTS.values()}


class TeacherPretraining(TeacherTraining):
    """Train a patch network to describe patches (eq. 6).

    The descriptors of the source are standardised per dimension, so that eq. 1 weighs them alike. A loss whose weight
    is 0 is not computed: without ``lambda_k``, there is no source.
    """

    settings: PretrainSettings
    sources: tuple[DistillationSource, ...]
    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(
        self,
        source: DistillationSource | None,
        train_images: ImageStore,
        held_out_images: ImageStore,
        settings: PretrainSettings,
    ) -> None:
        super().__init__(settings, [source] if source is not None and settings.lambda_k else [])
        self._train_images, self._held_out_images = train_images, held_out_images
        for network in self.sources:
            self.decoder = nn.Linear(settings.descriptor_dim, network.dim)
            self.register_buffer("target_mean", torch.zeros(network.dim))
            self.register_buffer("target_std", torch.ones(network.dim))

    def setup(self, stage: str) -> None:
        """Make patches drawable on the device."""
        device, settings = self.trainer.strategy.root_device, self.settings
        share = self.global_rank, self.trainer.world_size
        size, triplets = self.teacher.patch_size, bool(settings.lambda_m)
        self._train_images, self._held_out_images = self._train_images.to(device), self._held_out_images.to(device)
        self._train_patches = PatchSampler(
            self._train_images, size, settings.batch_size, settings.seed, triplets, *share
        )
        self._held_out_patches = PatchSampler(
            self._held_out_images, size, MEASURED_BATCH_SIZE, settings.seed + HELD_OUT_SEED, triplets
        )
        super().setup(stage)

    def measure_sources(self, _: torch.device) -> None:
        """Measure mean and standard deviation of the source's descriptors over the first batches."""
        # All processes see the same patches here, and so agree on the statistics.
        sampler = PatchSampler(self._train_images, self.teacher.patch_size, MEASURED_BATCH_SIZE, self.settings.seed)
        for network in self.sources:
            batches = (sampler.draw(number)[0] for number in range(STATISTICS_BATCHES))
            targets = torch.cat([network(normalise(patches)).cpu() for patches in batches])
            std, mean = torch.std_mean(targets.double(), dim=0, correction=0)
            self.target_mean.copy_(mean)
            self.target_std.copy_(std.clamp_min(1e-6))

    def val_dataloader(self) -> DataLoader:
        """Number the held-out batches."""
        return DataLoader(range(HELD_OUT_BATCHES), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, number: int) -> torch.Tensor:
        """Compute the loss of eq. 6 on the random patches of a batch."""
        loss, terms = self.loss(self._train_patches.draw(number))
        self.log_dict(terms, prog_bar=True, sync_dist=True)
        return loss

    def loss(self, patches: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of eq. 6 on patches as drawn, and its unweighted terms whose weight is not 0, by name."""
        settings, patches = self.settings, normalise(patches)
        descriptors = self._describe(patches)
        terms = {}
        if self.sources:
            terms["distillation"] = distillation_loss(*self._decoded_and_target(descriptors, patches))
        if settings.lambda_m:
            anchors, positives, negatives = descriptors.float()
            terms["triplet"] = triplet_loss(anchors, positives, negatives, settings.margin)
        if settings.lambda_c:
            terms["compactness"] = compactness_loss(descriptors[0].float())
        weighted = [getattr(settings, LOSS_WEIGHTS[name]) * term for name, term in terms.items()]
        return torch.stack(weighted).sum(), terms

    def on_validation_epoch_start(self) -> None:
        """Reset the measurements."""
        super().on_validation_epoch_start()
        self._n_ordered = 0

    def validation_step(self, number: int) -> None:
        """Compare decoded descriptors of held-out patches with the source's, and order held-out triplets."""
        patches = normalise(self._held_out_patches.draw(number))
        descriptors = self._describe(patches)
        if self.sources:
            self.compare(*self._decoded_and_target(descriptors, patches))
        if self.settings.lambda_m:
            positive_distance, negative_distance = triplet_distances(*descriptors.float())
            self._n_ordered += int((positive_distance < negative_distance).sum())

    def on_validation_epoch_end(self) -> None:
        """Log ``held_out_r2``, and the fraction of triplets whose positive is nearer than the negative."""
        super().on_validation_epoch_end()
        if self.settings.lambda_m:
            self.log("held_out_triplets", self._n_ordered / (HELD_OUT_BATCHES * MEASURED_BATCH_SIZE), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its learning rate decaying to zero over the run."""
        return self.decaying(torch.optim.Adam(self.parameters(), lr=self.settings.lr, weight_decay=WEIGHT_DECAY))

    def _describe(self, patches: torch.Tensor) -> torch.Tensor:
        """Describe patches of shape (n, B, 3, p, p) in one pass: descriptors of shape (n, B, d)."""
        return self.teacher(patches.flatten(0, 1)).flatten(1).unflatten(0, patches.shape[:2])

    def _decoded_and_target(
        self, descriptors: torch.Tensor, patches: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode the descriptors of the first patches, and standardise the source's, both of shape (B, k)."""
        target = (self.sources[0](patches[0]).float() - self.target_mean) / self.target_std
        return self.decoder(descriptors[0]).float(), target


def pretrain(**settings: Any) -> Path:
    """Pretrain a teacher on patches of natural images.

    Takes the settings of :class:`PretrainSettings` by name, and returns the path of the teacher file.

    Raises:
        FileNotFoundError: If images or checkpoint are missing.
        OSError: If checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the source's weights cannot be loaded, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, or a setting is out of range.
    """
    task = PretrainSettings(**settings)
    # Both the training and the held-out images need a different image for the negatives.
    least, reason = (4, " with triplets (lambda_m > 0)") if task.lambda_m else (2, "")
    paths = check_run(task, f"Pretraining{reason}", least)
    seed_everything(task.seed)
    arguments = task.source, task.source_checkpoint, task.source_layer, task.source_size
    source = DistillationSource(*arguments) if task.lambda_k else None
    pictures = load_images(paths, task.image_side)
    held_out_every = min(round(1 / HELD_OUT_FRACTION), len(pictures) * 2 // least)
    train_images = [picture for index, picture in enumerate(pictures) if index % held_out_every]
    module = TeacherPretraining(
        source, ImageStore.from_images(train_images), ImageStore.from_images(pictures[::held_out_every]), task
    )
    layer = {"source_layer": task.source_layer or "pooled features", "source_size": task.source_size}
    metadata = {
        "n_images": len(pictures),
        "source": task.source if task.lambda_k else "none",
        **(layer if task.lambda_k else {}),
        **task.loss_weights,
        **({"margin": task.margin} if task.lambda_m else {}),
    }
    return make_teacher(module, metadata)
