"""Distillation from whole images: a teacher learns to predict, at each pixel, what larger networks see around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from anomalib_students.muon import Muon
from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.lean import STAGE_CHANNELS, LeanTeacher
from anomalib_students.networks.statistics import RunningStatistics
from anomalib_students.trainings import has_bfloat16

from .data import load_crops
from .lean_start import standardise, start_from
from .sources import ENLARGEMENT, GRID_STRIDE, STRIDES, FeatureSource, block_channels, feature_blocks
from .training import TeacherSettings, TeacherTraining, check_run, make_teacher, normalise

DEFAULT_SOURCES = ("resnet18", "tf_efficientnet_lite0")
FURTHER_WEIGHT = 0.7  # Weight of each source but the first.
HELD_OUT_FRACTION = 0.05
MOST_HELD_OUT = 48  # Most photographs that are held out: each has hundreds of patches.
MEASURED_BATCH_SIZE = 8  # Crops that the sources see at once where no loss is computed.
SAMPLED_CROPS = 400  # Crops on which the principal components are measured.
SAMPLED_POINTS = 400  # Points on each of these crops.
SHRINKAGE = 0.1
"""Fraction of the mean variance of the components that is added to each before whitening. Without, the last components,
which are mostly noise, would count as much as the first."""
LARGEST_GRADIENT = 1.0  # Norm to which larger gradients are clipped.
WARM_UP_STEPS = 200
MOST_KEPT = 5000
"""Crops whose targets are kept in memory after their first use: 3 GB by default. The sources take most of a step."""
PIXEL_OF_POINT = GRID_STRIDE // 2
"""A point stands for an even number of pixels, of which none is in the middle: its patch is centred in the one that
follows the middle."""


@dataclass(frozen=True, kw_only=True)
class DistilSettings(TeacherSettings):
    """Settings of :func:`distil`. Raises a ``ValueError`` if one of them is out of range."""

    recorded: ClassVar[tuple[str, ...]] = (*TeacherSettings.recorded, "weights", "crops", "crop_side", "components")

    max_steps: int = 9000
    """Training steps."""
    batch_size: int = 4
    """Crops in a step on each device."""
    lr: float = 1e-2
    """Greatest learning rate of Muon, after 200 steps; it decays to zero along a cosine."""
    sources: dict[str, Path | None] | None = None
    """Names of the timm models that are distilled, each with its file of weights, or null if timm is to download them.
    By default resnet18 and tf_efficientnet_lite0 with downloaded weights."""
    crops: int = 2
    """Crops of each photograph, which are kept in memory."""
    crop_side: int = 192
    """Side of the crops in pixels, divisible by 8."""
    components: int = 192
    """Principal components of the features, at least descriptor_dim; all if the sources have fewer."""

    @property
    def files(self) -> dict[str, Path | None]:
        """The sources and their files."""
        return dict.fromkeys(DEFAULT_SOURCES) if self.sources is None else self.sources

    @property
    def predicted(self) -> int:
        """Number of components that the teacher predicts: lean ones also have those of a stage."""
        return self.descriptor_dim - (STAGE_CHANNELS[-1] if self.architecture == "lean" else 0)

    @property
    def weights(self) -> dict[str, float]:
        """How much the features of each source count."""
        return {name: FURTHER_WEIGHT if index else 1.0 for index, name in enumerate(self.files)}

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.files:
            raise ValueError("Distillation needs at least one source network.")
        for name in ("crops", "components", "max_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        divisor = STRIDES[-1] // ENLARGEMENT
        if self.crop_side < divisor or self.crop_side % divisor:
            raise ValueError(f"crop_side must be divisible by {divisor}, got {self.crop_side}.")


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
        raise ValueError(f"A crop of {side} pixels has no room for a patch of {patch_size} pixels.")
    pixels = slice(GRID_STRIDE * first + PIXEL_OF_POINT - border, GRID_STRIDE * last + PIXEL_OF_POINT + border + 1)
    return slice(first, last + 1), pixels


def principal_components(
    covariance: torch.Tensor, channels: Sequence[int], weights: Sequence[float], n_components: int
) -> torch.Tensor:
    """Compute the matrix ``(C, n)`` that maps features, less their mean, to whitened principal components.

    Each block of features is divided by the root of its total variance and multiplied by its weight, so that neither
    the number of its channels nor their range decides how much it counts. Each component is divided by the root of the
    sum of its variance and a tenth of the mean variance of all n.

    Example:
        >>> principal_components(torch.diag(torch.tensor([4.0, 0.0])).double(), [2], [1.0], n_components=1).abs()
        tensor([[0.4767],
                [0.0000]])
    """
    deviations = torch.stack([block.sum().sqrt() for block in covariance.diagonal().split(list(channels))])
    scales = torch.tensor(weights, dtype=torch.float64) / _divisor(deviations)
    scale = scales.repeat_interleave(torch.tensor(channels))
    variances, directions = torch.linalg.eigh(covariance * torch.outer(scale, scale))
    # In ascending order, and by rounding errors less than 0.
    variances = variances.flip(0)[:n_components].clamp_min(0)
    directions = directions.flip(1)[:, :n_components]
    return (scale[:, None] * directions / _divisor((variances + SHRINKAGE * variances.mean()).sqrt())).float()


def _divisor(std: torch.Tensor) -> torch.Tensor:
    """Replace standard deviations of 0 by 1."""
    return torch.where(std > 0, std, 1).float()


def draw_crops(
    n_crops: int, batch_size: int, seed: int, number: int, rank: int = 0, world_size: int = 1
) -> tuple[list[int], torch.Tensor]:
    """Draw a process's share of a batch, each crop once in an epoch: indices, and which to flip, ``(B, 1, 1, 1)``."""
    start = (number * world_size + rank) * batch_size
    places = (divmod(place, n_crops) for place in range(start, start + batch_size))
    indices = [int(np.random.default_rng([seed, 0, epoch]).permutation(n_crops)[place]) for epoch, place in places]
    # Drawn for all processes, so that their number makes no difference.
    is_flipped = np.random.default_rng([seed, 1, number]).random((world_size, batch_size))[rank] < 0.5
    return indices, torch.from_numpy(is_flipped)[:, None, None, None]


class Distillation(TeacherTraining):
    """Train a patch network to predict what sources see on a grid of points, by the mean squared error.

    There is no decoder: the descriptors are themselves the predictions. ``crops``, of shape ``(N, K, 3, S, S)``, are of
    N photographs; no crop for training comes from a photograph that is held out.
    """

    settings: DistilSettings
    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, settings: DistilSettings, sources: Sequence[FeatureSource], crops: torch.Tensor) -> None:
        super().__init__(settings, sources)
        self.teacher.initialise()
        if isinstance(self.teacher, LeanTeacher):
            start_from(self.teacher, sources)
        self.crops = crops.flatten(0, 1)
        side = settings.crop_side // GRID_STRIDE
        # In one piece: single ones, between what a step needs and frees, would keep that from being used again.
        self._store = torch.empty(min(MOST_KEPT, len(self.crops)), settings.predicted, side, side, dtype=torch.half)
        self._kept: dict[int, torch.Tensor] = {}
        n_images, per_image = crops.shape[:2]
        n_held_out = min(MOST_HELD_OUT, max(1, round(HELD_OUT_FRACTION * n_images)))
        # All over the folder, whose photographs are sorted by their names.
        photographs = {number * n_images // n_held_out for number in range(n_held_out)}
        self.train_indices, self.held_out_indices = (
            [index for index in range(len(self.crops)) if (index // per_image in photographs) is held_out]
            for held_out in (False, True)
        )
        self.channels = block_channels(sources)
        self.register_buffer("mean", torch.zeros(sum(self.channels)))
        self.register_buffer("matrix", torch.zeros(sum(self.channels), settings.predicted))

    def measure_sources(self, device: torch.device) -> None:
        """Measure mean and principal components of the features on a sample of the crops."""
        settings, random = self.settings, np.random.default_rng(self.settings.seed)
        sample = random.choice(len(self.crops), min(SAMPLED_CROPS, len(self.crops)), replace=False)
        statistics = RunningStatistics(sum(self.channels), covariance=True)
        starts = range(0, len(sample), MEASURED_BATCH_SIZE)
        for start in track(starts, "Measuring features"):
            features = self._features(self.crops[sample[start : start + MEASURED_BATCH_SIZE]].to(device)).flatten(1, 2)
            points = torch.from_numpy(random.permutation(features.shape[1])[:SAMPLED_POINTS])
            statistics.update(features[:, points.to(device)].flatten(0, 1).cpu())
        weights = [settings.weights[name] for name in settings.files for _ in STRIDES] + [1.0]
        n_components = min(settings.components, sum(self.channels))
        matrix = principal_components(statistics.covariance, self.channels, weights, n_components)
        self.mean.copy_(statistics.mean)
        self.matrix.copy_(matrix[:, : settings.predicted])
        if isinstance(self.teacher, LeanTeacher):
            standardise(self.teacher, (normalise(self.crops[[index]].to(device) / 255) for index in sample[::4]))

    def _features(self, crops: torch.Tensor) -> torch.Tensor:
        """Describe crops by all features: shape (B, S / 4, S / 4, C)."""
        return torch.cat(feature_blocks(self.sources, crops), dim=1).movedim(1, -1)

    def targets(self, crops: torch.Tensor) -> torch.Tensor:
        """Compute the first d components of the features of crops ``(B, 3, S, S)``: ``(B, d, S / 4, S / 4)``."""
        return ((self._features(crops) - self.mean) @ self.matrix).movedim(-1, 1)

    def _targets_of(self, indices: list[int]) -> torch.Tensor:
        """Compute the targets of crops by their indices, in half precision, unless they are kept."""
        missing = sorted({*indices} - self._kept.keys())
        computed = self.targets(self.crops[missing].to(self.device)).half().cpu() if missing else ()
        targets = self._kept | dict(zip(missing, computed, strict=True))
        for index in missing:
            if index < len(self._store):
                self._kept[index] = self._store[index].copy_(targets[index])
        return torch.stack([targets[index] for index in indices])

    def predict(self, crops: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return descriptors and targets ``(B, d, n, n)`` in float32 at the points whose patches need no padding."""
        points, pixels = valid_points(crops.shape[-1], self.teacher.patch_size)
        images = normalise(crops[..., pixels, pixels] / 255).contiguous(memory_format=torch.channels_last)
        # Lean networks describe every eighth pixel, or do so once for each phase.
        stride = self.teacher.stride if isinstance(self.teacher, LeanTeacher) else GRID_STRIDE
        with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
            descriptors = dense_descriptors(self.teacher, images, stride, padded=True)
        step = stride // GRID_STRIDE
        return descriptors[:, -targets.shape[1] :].float(), targets[..., points, points][..., ::step, ::step].float()

    def training_step(self, number: int) -> torch.Tensor:
        """Compute the mean squared error on a batch of crops, some of which are flipped with their targets."""
        n_crops, settings = len(self.train_indices), self.settings
        share = self.global_rank, self.trainer.world_size
        places, is_flipped = draw_crops(n_crops, settings.batch_size, settings.seed, number, *share)
        indices = [self.train_indices[place] for place in places]
        both = self.crops[indices], self._targets_of(indices)
        batch = [torch.where(is_flipped, each.flip(-1), each).to(self.device) for each in both]
        loss = nn.functional.mse_loss(*self.predict(*batch))
        self.log("distillation", loss, prog_bar=True, sync_dist=True)
        return loss

    def val_dataloader(self) -> DataLoader:
        """Load the held-out crops as they are, all of them in every process."""
        return DataLoader(self.crops[self.held_out_indices], MEASURED_BATCH_SIZE)  # type: ignore[arg-type]

    def validation_step(self, crops: torch.Tensor) -> None:
        """Compare descriptors of held-out crops with their targets."""
        self.compare(*self.predict(crops, self.targets(crops)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Muon, its learning rate rising over the first steps, then decaying to zero along a cosine."""
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.decaying(Muon(learnt, lr=self.settings.lr), WARM_UP_STEPS)


def distil(**settings: Any) -> Path:
    """Distil networks that see whole images into a teacher. They compute in bfloat16 if the device is made for it.

    Takes the settings of :class:`DistilSettings` by name, and returns the path of the teacher file.

    Raises:
        FileNotFoundError: If images or weights of a source are missing.
        OSError: If checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the weights of a source cannot be loaded, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, timm has no such model, or a setting is out of range.
    """
    task = DistilSettings(**settings)
    valid_points(task.crop_side, task.patch_size)
    paths = check_run(task, "Distillation", least=2)
    seed_everything(task.seed)
    sources = [FeatureSource(name, path) for name, path in task.files.items()]
    n_components = min(task.components, sum(block_channels(sources)))
    if task.predicted > n_components:
        raise ValueError(f"descriptor_dim asks for {task.predicted} components, of which there are {n_components}.")
    crops = load_crops(paths, task.crops, task.crop_side, task.seed)
    # The sources draw random weights first if they are loaded from files.
    seed_everything(task.seed, verbose=False)
    metadata = {
        "n_images": len(paths),
        "task": "distillation from whole images",
        "source": ", ".join(task.files),
        "source_weights": ", ".join(str(task.weights[name]) for name in task.files),
        "crops": task.crops,
        "crop_side": task.crop_side,
        "components": n_components,
    }
    return make_teacher(Distillation(task, sources, crops), metadata, gradient_clip_val=LARGEST_GRADIENT)
