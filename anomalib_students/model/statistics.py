"""Mean, standard deviation and covariance of vectors that arrive in chunks, in double precision."""

import torch

__all__ = ["RunningStatistics", "effective_dimension"]


class RunningStatistics:
    """Accumulate mean and standard deviation of each of d components over any number of vectors.

    Chunks are merged with the update of Chan, Golub and LeVeque (1979), which loses no precision where a sum of squares
    would. The same update merges the accumulators of several workers.

    Args:
        dim: Number d of components.
        covariance: Whether to accumulate the covariance of all pairs of components too.

    Attributes:
        has_products: Whether the covariance is accumulated.
        moments: Count, mean and sums of squared deviations, in rows of shape ``(d,)``, in float64 on the CPU: of shape
            ``(3, d)``, or with the sums of products of deviations ``(2 + d, d)``.

    Example:
        >>> statistics = RunningStatistics(dim=1)
        >>> statistics.update(torch.tensor([[1.0], [2.0]]))
        >>> statistics.update(torch.tensor([[3.0]]))
        >>> float(statistics.mean), float(statistics.std)
        (2.0, 0.816496580927726)
    """

    def __init__(self, dim: int, covariance: bool = False) -> None:
        self.has_products = covariance
        self.moments = torch.zeros(2 + (dim if covariance else 1), dim, dtype=torch.float64)

    @property
    def count(self) -> int:
        """Number of vectors so far."""
        return int(self.moments[0, 0])

    @property
    def mean(self) -> torch.Tensor:
        """Mean of the vectors so far, of shape ``(d,)`` in float64."""
        return self.moments[1]

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of each component over all vectors so far, of shape ``(d,)`` in float64."""
        squares = self.moments[2:]
        return ((squares.diagonal() if self.has_products else squares[0]) / self.count).sqrt()

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of all vectors so far, of shape ``(d, d)`` in float64, if it is accumulated."""
        return self.moments[2:] / self.count

    @torch.no_grad()
    def update(self, vectors: torch.Tensor) -> None:
        """Add vectors of shape ``(n, d)`` with ``n >= 1``, on any device."""
        # Not every accelerator computes in float64.
        part = vectors.to("cpu", torch.float64)
        mean = part.mean(dim=0, keepdim=True)
        count = torch.full_like(mean, len(part))
        self.merge(torch.cat([count, mean, self._squares(part - mean)]).unsqueeze(0))

    def merge(self, moments: torch.Tensor) -> None:
        """Add all vectors of other accumulators, by their moments of shape ``(n, 3, d)`` or ``(n, 2 + d, d)``."""
        parts = torch.cat([self.moments.unsqueeze(0), moments])
        counts, means, squares = parts[:, 0], parts[:, 1], parts[:, 2:]
        count = counts.sum(dim=0, keepdim=True)
        mean = (counts * means).sum(dim=0, keepdim=True) / count.clamp(min=1)
        between = self._squares(counts.sqrt() * (means - mean))
        self.moments = torch.cat([count, mean, squares.sum(dim=0) + between])

    def _squares(self, deviations: torch.Tensor) -> torch.Tensor:
        """Sum up squares, or all products, of the components of n vectors."""
        return deviations.T @ deviations if self.has_products else deviations.square().sum(dim=0, keepdim=True)


def effective_dimension(covariance: torch.Tensor) -> float:
    """Measure in how many directions vectors vary: the participation ratio of the eigenvalues of their covariance.

    It is the square of the sum of the eigenvalues divided by the sum of their squares: from 1, if all variance lies in
    one direction, to d, if it is the same in all.

    Example:
        >>> effective_dimension(torch.diag(torch.tensor([5.0, 5.0, 0.0])))
        2.0
    """
    # Trace and Frobenius norm are sums of the eigenvalues and of their squares.
    return float(covariance.trace().square() / covariance.square().sum())
