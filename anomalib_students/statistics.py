"""Mean and covariance of vectors that arrive in parts, in double precision."""

import torch
from torch import nn

__all__ = ["RunningStatistics", "divisor", "effective_dimension", "whitening_matrix"]

WHITENING_FLOOR = 0.01
"""Added to the variances along principal axes, as a part of their mean, so that whitening does not amplify noise."""


def divisor(std: torch.Tensor) -> torch.Tensor:
    """Keep what does not vary at all from being divided by zero.

    Args:
        std: Standard deviations of any shape.

    Returns:
        The standard deviations in float32, and 1 in place of 0.
    """
    return torch.where(std > 0, std, torch.ones_like(std)).float()


def whitening_matrix(covariance: torch.Tensor) -> torch.Tensor:
    """Compute the symmetric matrix that makes components uncorrelated and of unit variance (ZCA whitening).

    Args:
        covariance: Covariance of the components, of shape ``(d, d)``.

    Returns:
        Matrix of shape ``(d, d)``, the inverse square root of the covariance with :data:`WHITENING_FLOOR` times the
        mean variance added to its diagonal. The identity if nothing varies.

    Example:
        >>> whitening_matrix(torch.eye(2, dtype=torch.float64) * 4 / 1.01)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    variances, axes = torch.linalg.eigh(covariance)
    floor = WHITENING_FLOOR * variances.mean()
    if floor <= 0:
        return torch.eye(len(covariance), dtype=covariance.dtype)
    return (axes / (variances.clamp_min(0) + floor).sqrt()) @ axes.T


def effective_dimension(covariance: torch.Tensor) -> float:
    """Compute the participation ratio of the variances along the principal axes.

    Args:
        covariance: Covariance of the components, of shape ``(d, d)``.

    Returns:
        Number between 1, if all components are copies of one another, and d, if they are uncorrelated with equal
        variances.

    Example:
        >>> effective_dimension(torch.diag(torch.tensor([2.0, 2.0, 0.0])))
        2.0
    """
    return float(covariance.trace() ** 2 / covariance.square().sum())


class RunningStatistics(nn.Module):
    """Accumulate mean and covariance of d components over any number of vectors.

    Parts are merged pairwise with the update of Chan, Golub and LeVeque (1979), which loses no precision where a sum of
    squares would. The same update merges the accumulators of several workers.

    Args:
        dim: Number d of components.

    Example:
        >>> statistics = RunningStatistics(dim=1)
        >>> statistics.update(torch.tensor([[1.0], [2.0]]))
        >>> statistics.update(torch.tensor([[3.0]]))
        >>> float(statistics.mean), float(statistics.std)
        (2.0, 0.816496580927726)
    """

    count: torch.Tensor
    mean: torch.Tensor
    comoment: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("comoment", torch.zeros(dim, dim, dtype=torch.float64))

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of the components over all vectors so far, of shape ``(d, d)`` in float64."""
        return self.comoment / self.count

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each component over all vectors so far, of shape ``(d,)`` in float64."""
        return self.covariance.diagonal().sqrt()

    @torch.no_grad()
    def update(self, vectors: torch.Tensor) -> None:
        """Add vectors.

        Args:
            vectors: Vectors of shape ``(n, d)`` with ``n >= 1``, on any device.
        """
        # Not every accelerator computes in float64, so the accumulator stays where it was made.
        part = vectors.to(self.mean.device, torch.float64)
        mean = part.mean(dim=0)
        centred = part - mean
        self._add(torch.full_like(self.count, len(part)), mean, centred.T @ centred)

    def merge(self, other: "RunningStatistics") -> None:
        """Add all vectors that another accumulator has seen.

        Args:
            other: Accumulator of the same dimension.
        """
        self._add(other.count, other.mean, other.comoment)

    def pack(self) -> torch.Tensor:
        """Put everything in one vector, for workers to exchange.

        Returns:
            Vector of shape ``(1 + d + d * d,)`` in float64.
        """
        return torch.cat([self.count[None], self.mean, self.comoment.flatten()])

    @classmethod
    def unpack(cls, packed: torch.Tensor, dim: int) -> "RunningStatistics":
        """Make an accumulator from what another has packed.

        Args:
            packed: Vector of shape ``(1 + d + d * d,)``.
            dim: Number d of components.

        Returns:
            Accumulator that has seen the same vectors.
        """
        count, mean, comoment = packed.split([1, dim, dim * dim])
        statistics = cls(dim)
        statistics._add(count.squeeze(), mean, comoment.view(dim, dim))
        return statistics

    def _add(self, count: torch.Tensor, mean: torch.Tensor, comoment: torch.Tensor) -> None:
        total = self.count + count
        if total == 0:
            return
        delta = mean - self.mean
        self.comoment = self.comoment + comoment + torch.outer(delta, delta) * self.count * count / total
        self.mean = self.mean + delta * count / total
        self.count = total
