"""Mean and standard deviation of values that arrive in parts, in double precision."""

import torch
from torch import nn

__all__ = ["RunningStatistics"]


class RunningStatistics(nn.Module):
    """Accumulate mean and standard deviation of each of d components over any number of vectors.

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
    squared_deviation: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("squared_deviation", torch.zeros(dim, dtype=torch.float64))

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each component over all vectors so far, of shape ``(d,)`` in float64."""
        return (self.squared_deviation / self.count).sqrt()

    @torch.no_grad()
    def update(self, vectors: torch.Tensor) -> None:
        """Add vectors.

        Args:
            vectors: Vectors of shape ``(n, d)`` with ``n >= 1``, on any device.
        """
        # Not every accelerator computes in float64, so the accumulator stays where it was made.
        part = vectors.to(self.mean.device, torch.float64)
        variance, mean = torch.var_mean(part, dim=0, correction=0)
        self._add(torch.full_like(self.count, len(part)), mean, variance * len(part))

    def merge(self, other: "RunningStatistics") -> None:
        """Add all vectors that another accumulator has seen.

        Args:
            other: Accumulator of the same dimension.
        """
        self._add(other.count, other.mean, other.squared_deviation)

    def pack(self) -> torch.Tensor:
        """Put everything in one vector, for workers to exchange.

        Returns:
            Vector of shape ``(1 + 2 d,)`` in float64.
        """
        return torch.cat([self.count[None], self.mean, self.squared_deviation])

    @classmethod
    def unpack(cls, packed: torch.Tensor) -> "RunningStatistics":
        """Make an accumulator from what another has packed.

        Args:
            packed: Vector of shape ``(1 + 2 d,)``.

        Returns:
            Accumulator that has seen the same vectors.
        """
        dim = (len(packed) - 1) // 2
        count, mean, squared_deviation = packed.split([1, dim, dim])
        statistics = cls(dim)
        statistics._add(count.squeeze(), mean, squared_deviation)
        return statistics

    def _add(self, count: torch.Tensor, mean: torch.Tensor, squared_deviation: torch.Tensor) -> None:
        total = self.count + count
        if total == 0:
            return
        delta = mean - self.mean
        self.squared_deviation = self.squared_deviation + squared_deviation + delta**2 * self.count * count / total
        self.mean = self.mean + delta * count / total
        self.count = total
