"""Principal components of blocks of features, whitened: the targets of distillation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from anomalib_students.files import replace_file
from anomalib_students.model.statistics import RunningStatistics

__all__ = ["PrincipalComponents"]

SHRINKAGE = 0.1
"""Part of the mean variance of the components that is added to each before whitening. Without, the last components,
which are mostly noise, would count as much as the first."""


@dataclass(frozen=True)
class PrincipalComponents:
    """A linear map from C features to their first n principal components, with a matrix of shape ``(C, n)``."""

    matrix: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def fit(
        cls, statistics: RunningStatistics, channels: Sequence[int], weights: Sequence[float], n_components: int
    ) -> "PrincipalComponents":
        """Compute the map from the covariance of features.

        Each block of features is divided by the root of its total variance and multiplied by its weight, so that
        neither the number of its channels nor their range decides how much it counts. Each component is divided by the
        root of the sum of its variance and a tenth of the mean variance of all n.

        Example:
            >>> statistics = RunningStatistics(dim=2, covariance=True)
            >>> statistics.update(torch.tensor([[2.0, 1.0], [-2.0, 1.0]]))
            >>> components = PrincipalComponents.fit(statistics, channels=[2], weights=[1.0], n_components=1)
            >>> components(torch.tensor([[2.0, 1.0]])).abs()
            tensor([[0.9535]])
        """
        covariance = statistics.covariance
        deviations = torch.stack([block.sum().sqrt() for block in covariance.diagonal().split(list(channels))])
        scales = torch.tensor(weights, dtype=torch.float64) / _divisor(deviations)
        scale = scales.repeat_interleave(torch.tensor(channels))
        variances, directions = torch.linalg.eigh(covariance * torch.outer(scale, scale))
        # In ascending order, and by rounding errors less than 0.
        variances = variances.flip(0)[:n_components].clamp_min(0)
        directions = directions.flip(1)[:, :n_components]
        deviation = _divisor((variances + SHRINKAGE * variances.mean()).sqrt())
        return cls((scale[:, None] * directions / deviation).float(), statistics.mean.float())

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Project features of shape ``(..., C)`` to components of shape ``(..., n)``."""
        return (features - self.mean) @ self.matrix

    def to(self, device: torch.device) -> "PrincipalComponents":
        """Return the same map on a device."""
        return PrincipalComponents(self.matrix.to(device), self.mean.to(device))

    def save(self, path: Path) -> None:
        """Write the map to a file, whole or not at all."""
        replace_file(path, save({"matrix": self.matrix.contiguous(), "mean": self.mean}))

    @classmethod
    def load(cls, path: Path) -> "PrincipalComponents":
        """Read a map from a file that :meth:`save` wrote."""
        return cls(**load_file(path))


def _divisor(std: torch.Tensor) -> torch.Tensor:
    """Replace standard deviations of 0 by 1."""
    return torch.where(std > 0, std, torch.ones_like(std)).float()
