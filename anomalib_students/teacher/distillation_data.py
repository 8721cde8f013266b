"""Batches of crops and targets for distillation from whole images."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from .feature_targets import FeatureTargets
from .training import BatchNumbers

__all__ = ["Batch", "DistillationData"]

MEASURED_BATCH_SIZE = 8
"""Held-out crops that are described at once."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Crops in uint8, and targets in float16."""


class DistillationData(LightningDataModule):
    """Crops and targets, which the first process computes before the training if they are missing.

    Each batch follows from the seed and its number, so that a run can be resumed anywhere. No crop for training comes
    from the photographs whose numbers are ``held_out``.
    """

    def __init__(
        self,
        targets: FeatureTargets,
        held_out: Sequence[int],
        dim: int,
        batch_size: int = 4,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        # All nodes share the folder of results.
        self.prepare_data_per_node = False
        self.targets = targets
        photographs = set(held_out)
        self.held_out = [index for index in range(len(targets)) if index // targets.crops in photographs]
        self.train = [index for index in range(len(targets)) if index // targets.crops not in photographs]
        self.dim = dim
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress

    def prepare_data(self) -> None:
        """Compute the crops and targets that are missing."""
        self.targets.write(self._trainer.strategy.root_device, self.progress)

    def train_dataloader(self) -> DataLoader:
        """Load the batches that follow the last step."""
        numbers = BatchNumbers(self._trainer.global_step, self._trainer.max_steps)
        draw = partial(self.draw, rank=self._trainer.global_rank, world_size=self._trainer.world_size)
        return DataLoader(numbers, batch_size=None, collate_fn=draw)

    def val_dataloader(self) -> DataLoader:
        """Load the held-out crops as they are, all of them in every process."""
        read = partial(self.targets.read, dim=self.dim)
        return DataLoader(self.held_out, MEASURED_BATCH_SIZE, collate_fn=read)  # type: ignore[arg-type]

    def draw(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Draw this process's part of a batch: crops ``(B, 3, S, S)`` and targets ``(B, d, S / 4, S / 4)``.

        Each crop is drawn once before any is drawn again, and flipped with probability 0.5.
        """
        n_crops = len(self.train)
        start = (number * world_size + rank) * self.batch_size
        places = [divmod(place, n_crops) for place in range(start, start + self.batch_size)]
        chosen = [self.train[_order(n_crops, self.seed, epoch)[place]] for epoch, place in places]
        crops, targets = self.targets.read(chosen, self.dim)
        # Of the parts of all processes, so that their number makes no difference.
        flips = np.random.default_rng([self.seed, 1, number]).random((world_size, self.batch_size))[rank] < 0.5
        flipped = torch.from_numpy(flips)[:, None, None, None]
        return torch.where(flipped, crops.flip(-1), crops), torch.where(flipped, targets.flip(-1), targets)

    @property
    def _trainer(self) -> Trainer:
        return cast("Trainer", self.trainer)


@lru_cache(maxsize=2)
def _order(n_crops: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(n_crops)
