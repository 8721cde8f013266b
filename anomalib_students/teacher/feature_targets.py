"""Crops of photographs and the targets of a teacher on them, computed once and kept in files."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from anomalib_students.files import replace_file
from anomalib_students.model.statistics import RunningStatistics

from .crops import cut_crops
from .feature_source import GRID_STRIDE, FeatureSource, feature_blocks
from .images import find_images
from .principal_components import PrincipalComponents

__all__ = ["FeatureTargets"]

PART = 16
"""Photographs whose crops are in one file."""
BATCH_SIZE = 8
"""Crops that the sources see at once."""
SAMPLED_CROPS = 400
"""Crops on which the principal components are measured."""
SAMPLED_POINTS = 400
"""Points on each of these crops."""
VERSION = 1
"""Raise it if the computation of crops or targets changes, so that older files are not reused."""


class FeatureTargets:
    """K crops of each photograph, and on a grid the first n principal components of the features of networks.

    They are written in parts, so that an interrupted computation resumes at the first missing part. Their folder is
    named after all that they depend on, and shared by all runs that need the same. The crops' side is divisible by 8.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        sources: Mapping[str, FeatureSource],
        weights: Mapping[str, float],
        crops: int = 2,
        side: int = 192,
        n_components: int = 192,
        seed: int = 0,
    ) -> None:
        self.paths = find_images(images)
        self.crops = crops
        self.side = side
        self._seed = seed
        self._sources = list(sources.values())
        self._channels = [channels for source in self._sources for channels in source.channels]
        self._weights = [weights[name] for name, source in sources.items() for _ in source.channels]
        self.n_components = min(n_components, sum(self._channels))
        settings = {
            "version": VERSION,
            "sources": {
                name: {"weights": _digest(source), "weight": weights[name]} for name, source in sources.items()
            },
            "crops": crops,
            "side": side,
            "n_components": self.n_components,
            "seed": seed,
            "images": [[path.relative_to(images).as_posix(), path.stat().st_size] for path in self.paths],
        }
        self._settings = json.dumps(settings, indent=1).encode()
        self.name = f"targets-{hashlib.sha256(self._settings).hexdigest()[:12]}"
        self.folder = folder / self.name

    def __len__(self) -> int:
        """Count the crops."""
        return len(self.paths) * self.crops

    def check_space(self) -> None:
        """Raise an ``OSError`` if the disk has no room for the missing files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        crop = 3 * self.side**2
        targets = self._grid**2 * self.n_components * np.dtype(np.float16).itemsize
        n_missing = [len(self._missing(kind)) * PART * self.crops for kind in ("crops", "targets")]
        needed, free = n_missing[0] * crop + n_missing[1] * targets, shutil.disk_usage(self.folder).free
        if needed > free:
            msg = (
                f"The crops and targets need {needed / 1e9:.1f} GB, but {self.folder} has {free / 1e9:.1f} GB left: "
                "take fewer photographs, crops or components, or another folder of results."
            )
            raise OSError(msg)

    def write(self, device: torch.device, progress: bool = True) -> None:
        """Compute all missing files.

        All photographs are read first, so that a damaged one is found before the sources have worked for long.
        """
        replace_file(self.folder / "settings.json", self._settings)
        self._each_missing("crops", self._cut, "Cutting crops", progress)
        if not self._missing("targets"):
            return
        for source in self._sources:
            source.to(device)
        if not self._components_path.is_file():
            self._measure_components(device, progress)
        components = PrincipalComponents.load(self._components_path).to(device)

        def describe(part: int) -> np.ndarray:
            crops = np.load(self._path("crops", part))
            batches = [self._features(batch, device) for batch in torch.from_numpy(crops).split(BATCH_SIZE)]
            return torch.cat([components(features).half().cpu() for features in batches]).numpy()

        self._each_missing("targets", describe, "Computing features", progress)
        for source in self._sources:
            source.cpu()

    def read(self, indices: Sequence[int], dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Read crops ``(B, 3, S, S)`` in uint8, and d components of each, ``(B, d, S / 4, S / 4)`` in float16.

        The crops from ``K i`` to ``K i + K - 1`` are of photograph i. For the points see :func:`feature_blocks`.
        """
        crops = np.stack([self._stored("crops", index) for index in indices])
        targets = np.stack([self._stored("targets", index)[..., :dim] for index in indices])
        return torch.from_numpy(crops), torch.from_numpy(targets).movedim(-1, 1)

    @property
    def _grid(self) -> int:
        return self.side // GRID_STRIDE

    @property
    def _components_path(self) -> Path:
        return self.folder / "components.safetensors"

    def _path(self, kind: str, part: int) -> Path:
        return self.folder / kind / f"{part:05}.npy"

    def _missing(self, kind: str) -> list[int]:
        n_parts = -(-len(self.paths) // PART)
        return [part for part in range(n_parts) if not self._path(kind, part).is_file()]

    def _each_missing(self, kind: str, compute: Callable[[int], np.ndarray], description: str, progress: bool) -> None:
        """Compute and write the missing parts."""
        missing = self._missing(kind)
        for part in track(missing, description, disable=not (missing and progress)):
            content = BytesIO()
            np.save(content, compute(part))
            replace_file(self._path(kind, part), content.getvalue())

    def _cut(self, part: int) -> np.ndarray:
        numbers = range(part * PART, min((part + 1) * PART, len(self.paths)))

        def cut(number: int) -> np.ndarray:
            return cut_crops(self.paths[number], number, self.crops, self.side, self._seed)

        # Pillow decodes outside of Python's lock.
        with ThreadPoolExecutor() as pool:
            return np.concatenate(list(pool.map(cut, numbers)))

    def _measure_components(self, device: torch.device, progress: bool) -> None:
        random = np.random.default_rng(self._seed)
        sample = random.choice(len(self), min(SAMPLED_CROPS, len(self)), replace=False)
        statistics = RunningStatistics(sum(self._channels), covariance=True)
        starts = range(0, len(sample), BATCH_SIZE)
        for start in track(starts, "Measuring features", disable=not progress):
            crops = np.stack([self._stored("crops", index) for index in sample[start : start + BATCH_SIZE]])
            points = torch.from_numpy(random.permutation(self._grid**2)[:SAMPLED_POINTS])
            features = self._features(torch.from_numpy(crops), device).flatten(1, 2)
            statistics.update(features[:, points.to(device)].flatten(0, 1))
        PrincipalComponents.fit(statistics, self._channels, self._weights, self.n_components).save(
            self._components_path
        )

    def _stored(self, kind: str, index: int) -> np.ndarray:
        part, place = divmod(int(index), PART * self.crops)
        return np.load(self._path(kind, part), mmap_mode="r")[place]

    def _features(self, crops: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Describe crops by all features: shape (B, S / 4, S / 4, C)."""
        return torch.cat(feature_blocks(self._sources, crops.to(device)), dim=1).movedim(1, -1)


def _digest(source: FeatureSource) -> str:
    """Digest the weights of a source: a file of the same name may have others."""
    digest = hashlib.sha256()
    for name, weight in sorted(source.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()
