"""Crops of photographs and what a teacher is to predict on them: principal components, computed once, kept in files."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from rich.progress import track
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader

from anomalib_students.files import replace_file
from anomalib_students.networks.statistics import RunningStatistics

from .data import cut_crops, find_images
from .sources import ENLARGEMENT, GRID_STRIDE, STRIDES, FeatureSource, feature_blocks
from .training import BatchNumbers, TeacherSettings

__all__ = ["Batch", "DistilSettings", "DistillationData", "principal_components"]

DEFAULT_SOURCES = ("resnet18", "tf_efficientnet_lite0")
FURTHER_WEIGHT = 0.7
"""Weight of each source but the first, if none is given."""
HELD_OUT_FRACTION = 0.05
MOST_HELD_OUT = 48
"""Most photographs that are held out: each has hundreds of patches."""
CHUNK = 16
"""Photographs whose crops are in one file."""
BATCH_SIZE = 8
"""Crops that the sources see at once, and held-out crops that the teacher describes at once."""
SAMPLED_CROPS = 400
"""Crops on which the principal components are measured."""
SAMPLED_POINTS = 400
"""Points on each of these crops."""
SHRINKAGE = 0.1
"""Fraction of the mean variance of the components that is added to each before whitening. Without, the last components,
which are mostly noise, would count as much as the first."""
VERSION = 1
"""Raise it if the computation of crops or targets changes, so that older files are not reused."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Crops in uint8, and targets in float16."""


@dataclass(frozen=True, kw_only=True)
class DistilSettings(TeacherSettings):
    """Settings of :func:`.distil.distil`.

    Raises:
        ValueError: If one of them is out of range.
    """

    images: Path
    """Folder of photographs, searched recursively. 5 % of them, at most 48, are held out to measure the teacher."""
    descriptor_dim: int = 128
    """Dimension d of the descriptors, at most the number of components."""
    max_steps: int = 9000
    """Training steps."""
    batch_size: int = 4
    """Crops in a step on each device."""
    lr: float = 1e-3
    """Greatest learning rate of AdamW, after 200 steps; it decays to zero along a cosine."""
    sources: dict[str, Path | None] | None = None
    """Names of the timm models that are distilled, each with its file of weights, or null if timm is to download them.
    By default resnet18 and tf_efficientnet_lite0 with downloaded weights."""
    source_weights: dict[str, float] | None = None
    """How much the features of a model count, by its name, greater than 0. By default 1 for the first and 0.7 for each
    other."""
    crops: int = 2
    """Crops of each photograph."""
    crop_side: int = 192
    """Side of the crops in pixels, divisible by 8."""
    components: int = 192
    """Principal components of the features that are computed and kept; all if the sources have fewer."""

    @property
    def files(self) -> dict[str, Path | None]:
        """The sources and their files, by default those of :data:`DEFAULT_SOURCES`."""
        return dict.fromkeys(DEFAULT_SOURCES) if self.sources is None else self.sources

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each source."""
        defaults = {name: FURTHER_WEIGHT if index else 1.0 for index, name in enumerate(self.files)}
        return {**defaults, **(self.source_weights or {})}

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.files:
            msg = "Distillation needs at least one source network."
            raise ValueError(msg)
        unknown = sorted(set(self.source_weights or {}) - set(self.files))
        if unknown:
            msg = f"source_weights names {', '.join(unknown)}, but the sources are {', '.join(self.files)}."
            raise ValueError(msg)
        if not all(0 < weight < float("inf") for weight in self.weights.values()):
            msg = f"source_weights must be greater than 0, got {self.weights}."
            raise ValueError(msg)
        for name in ("crops", "components", "max_steps", "batch_size"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, got {getattr(self, name)}."
                raise ValueError(msg)
        divisor = STRIDES[-1] // ENLARGEMENT
        if self.crop_side < GRID_STRIDE or self.crop_side % divisor:
            msg = f"crop_side must be divisible by {divisor}, got {self.crop_side}."
            raise ValueError(msg)


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


class DistillationData(LightningDataModule):
    """Crops of photographs, and on a grid of points the principal components of what networks see there.

    The first process computes what is missing before the training, in chunks, so that an interrupted computation
    resumes at the first missing one. The folder is named after all that the files depend on, and shared by all runs
    that need the same. Each batch follows from the seed and its number, so that a training can be resumed anywhere; no
    crop for training comes from a photograph that is held out.
    """

    def __init__(self, settings: DistilSettings, sources: Mapping[str, FeatureSource]) -> None:
        super().__init__()
        # All nodes share the folder of results.
        self.prepare_data_per_node = False
        self.settings = settings
        self._sources = list(sources.values())
        self._channels = [channels for source in self._sources for channels in source.channels]
        self._weights = [settings.weights[name] for name, source in sources.items() for _ in source.channels]
        self._grid = settings.crop_side // GRID_STRIDE
        self.n_components = min(settings.components, sum(self._channels))
        self.paths = find_images(settings.images)
        described = {
            "version": VERSION,
            "sources": {
                # A file of the same name may have other weights.
                name: {"digest": _digest(source), "weight": settings.weights[name]}
                for name, source in sources.items()
            },
            "crops": settings.crops,
            "side": settings.crop_side,
            "n_components": self.n_components,
            "seed": settings.seed,
            "images": [[path.relative_to(settings.images).as_posix(), path.stat().st_size] for path in self.paths],
        }
        self._described = json.dumps(described, indent=1).encode()
        self.folder = settings.results / f"targets-{sha256(self._described).hexdigest()[:12]}"
        n_held_out = min(MOST_HELD_OUT, max(1, round(HELD_OUT_FRACTION * len(self.paths))))
        # All over the folder, whose photographs are sorted by their names.
        photographs = {number * len(self.paths) // n_held_out for number in range(n_held_out)}
        indices = range(len(self.paths) * settings.crops)
        self.held_out = [index for index in indices if index // settings.crops in photographs]
        self.train = [index for index in indices if index // settings.crops not in photographs]

    def prepare_data(self) -> None:
        """Compute the files that are missing on the trainer's device."""
        self.write(cast("Trainer", self.trainer).strategy.root_device)

    def write(self, device: torch.device) -> None:
        """Compute all missing files.

        All photographs are read first, so that a damaged one is found before the sources have worked for long.
        """
        replace_file(self.folder / "settings.json", self._described)
        self._each_missing("crops", self._cut, "Cutting crops")
        if not self._missing("targets"):
            return
        for source in self._sources:
            source.to(device)
        path = self.folder / "components.safetensors"
        if not path.is_file():
            replace_file(path, save(self._measure_components(device)))
        components = {name: values.to(device) for name, values in load_file(path).items()}

        def describe(chunk: int) -> np.ndarray:
            crops = torch.from_numpy(np.load(self._path("crops", chunk)))
            features = (self._features(batch, device) - components["mean"] for batch in crops.split(BATCH_SIZE))
            return torch.cat([(each @ components["matrix"]).half().cpu() for each in features]).numpy()

        self._each_missing("targets", describe, "Computing features")
        for source in self._sources:
            source.cpu()

    def read(self, indices: Sequence[int]) -> Batch:
        """Read crops ``(B, 3, S, S)`` in uint8, and d components of each, ``(B, d, S / 4, S / 4)`` in float16.

        The crops from ``K i`` to ``K i + K - 1`` are of photograph i. For the points see :func:`feature_blocks`.
        """
        crops = np.stack([self._stored("crops", index) for index in indices])
        dim = self.settings.descriptor_dim
        targets = np.stack([self._stored("targets", index)[..., :dim] for index in indices])
        return torch.from_numpy(crops), torch.from_numpy(targets).movedim(-1, 1)

    def train_dataloader(self) -> DataLoader:
        """Load the batches that follow the last step."""
        trainer = cast("Trainer", self.trainer)
        draw = partial(self.draw, rank=trainer.global_rank, world_size=trainer.world_size)
        return DataLoader(BatchNumbers(trainer.global_step, trainer.max_steps), batch_size=None, collate_fn=draw)

    def val_dataloader(self) -> DataLoader:
        """Load the held-out crops as they are, all of them in every process."""
        return DataLoader(self.held_out, BATCH_SIZE, collate_fn=self.read)  # type: ignore[arg-type]

    def draw(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Draw this process's share of a batch: crops ``(B, 3, S, S)`` and targets ``(B, d, S / 4, S / 4)``.

        Each crop is drawn once before any is drawn again, and flipped with probability 0.5.
        """
        n_crops, batch_size, seed = len(self.train), self.settings.batch_size, self.settings.seed
        start = (number * world_size + rank) * batch_size
        places = [divmod(place, n_crops) for place in range(start, start + batch_size)]
        crops, targets = self.read([self.train[_order(n_crops, seed, epoch)[place]] for epoch, place in places])
        # Drawn for all processes, so that their number makes no difference.
        flips = np.random.default_rng([seed, 1, number]).random((world_size, batch_size))[rank] < 0.5
        flipped = torch.from_numpy(flips)[:, None, None, None]
        return torch.where(flipped, crops.flip(-1), crops), torch.where(flipped, targets.flip(-1), targets)

    def _path(self, kind: str, chunk: int) -> Path:
        return self.folder / kind / f"{chunk:05}.npy"

    def _missing(self, kind: str) -> list[int]:
        n_chunks = -(-len(self.paths) // CHUNK)
        return [chunk for chunk in range(n_chunks) if not self._path(kind, chunk).is_file()]

    def _each_missing(self, kind: str, compute: Callable[[int], np.ndarray], description: str) -> None:
        """Compute and write the missing chunks."""
        missing = self._missing(kind)
        for chunk in track(missing, description, disable=not (missing and self.settings.shows_progress)):
            content = BytesIO()
            np.save(content, compute(chunk))
            replace_file(self._path(kind, chunk), content.getvalue())

    def _cut(self, chunk: int) -> np.ndarray:
        numbers = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.paths)))

        settings = self.settings
        cut = partial(cut_crops, crops=settings.crops, side=settings.crop_side, seed=settings.seed)
        # Pillow decodes outside of Python's lock.
        with ThreadPoolExecutor() as pool:
            return np.concatenate(list(pool.map(cut, self.paths[numbers.start : numbers.stop], numbers)))

    def _measure_components(self, device: torch.device) -> dict[str, torch.Tensor]:
        random = np.random.default_rng(self.settings.seed)
        n_crops = len(self.train) + len(self.held_out)
        sample = random.choice(n_crops, min(SAMPLED_CROPS, n_crops), replace=False)
        statistics = RunningStatistics(sum(self._channels), covariance=True)
        starts = range(0, len(sample), BATCH_SIZE)
        for start in track(starts, "Measuring features", disable=not self.settings.shows_progress):
            crops = np.stack([self._stored("crops", index) for index in sample[start : start + BATCH_SIZE]])
            points = torch.from_numpy(random.permutation(self._grid**2)[:SAMPLED_POINTS])
            features = self._features(torch.from_numpy(crops), device).flatten(1, 2)
            statistics.update(features[:, points.to(device)].flatten(0, 1).cpu())
        matrix = principal_components(statistics.covariance, self._channels, self._weights, self.n_components)
        return {"matrix": matrix.contiguous(), "mean": statistics.mean.float()}

    def _stored(self, kind: str, index: int) -> np.ndarray:
        chunk, place = divmod(int(index), CHUNK * self.settings.crops)
        return np.load(self._path(kind, chunk), mmap_mode="r")[place]

    def _features(self, crops: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Describe crops by all features: shape (B, S / 4, S / 4, C)."""
        return torch.cat(feature_blocks(self._sources, crops.to(device)), dim=1).movedim(1, -1)


def _digest(source: FeatureSource) -> str:
    return sha256(save({name: weight.contiguous() for name, weight in source.state_dict().items()})).hexdigest()


@lru_cache(maxsize=2)
def _order(n_crops: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(n_crops)
