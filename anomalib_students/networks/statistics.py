"""Mean, standard deviation and covariance of vectors that arrive in chunks, in double precision."""

import torch
from torchmetrics import Metric


class RunningStatistics(Metric):
    """Accumulate mean and standard deviation of each of d components over any number of vectors.

    Chunks are merged with the update of Chan, Golub and LeVeque (1979), which loses no precision where a sum of squares
    would. Within ``with statistics.sync_context():``, they are those of the vectors of all processes.

    Args:
        dim: Number d of components.
        covariance: Whether to accumulate the covariance of all pairs of components too.

    Attributes:
        moments: Count, mean and sums of squared deviations, in rows of shape ``(d,)``, in float64: of shape ``(3, d)``,
            or with the sums of products of deviations ``(2 + d, d)``.

    Example:
        >>> statistics = RunningStatistics(dim=1)
        >>> statistics.update(torch.tensor([[1.0], [2.0]]))
        >>> statistics.update(torch.tensor([[3.0]]))
        >>> float(statistics.mean), float(statistics.std)
        (2.0, 0.816496580927726)
    """

    full_state_update = False
    moments: torch.Tensor

    def __init__(self, dim: int, covariance: bool = False) -> None:
        super().__init__()
        rows = 2 + (dim if covariance else 1)
        self.add_state("moments", torch.zeros(rows, dim, dtype=torch.float64), dist_reduce_fx=_merge)

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
        return ((squares[0] if len(squares) == 1 else squares.diagonal()) / self.count).sqrt()

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of all vectors so far, of shape ``(d, d)`` in float64, if it is accumulated."""
        return self.moments[2:] / self.count

    @torch.no_grad()
    def update(self, vectors: torch.Tensor) -> None:
        """Add vectors of shape ``(n, d)`` with ``n >= 1``, on any device."""
        vectors = vectors.to(self.moments)
        mean = vectors.mean(dim=0, keepdim=True)
        count = torch.full_like(mean, len(vectors))
        chunk = torch.cat([count, mean, _squares(vectors - mean, len(self.moments) > 3)])
        self.moments = _merge(torch.stack([self.moments, chunk]))

    def compute(self) -> torch.Tensor:
        """Return the moments of the vectors of all processes."""
        return self.moments


def _merge(moments: torch.Tensor) -> torch.Tensor:
    """Merge n accumulators, by their moments of shape ``(n, 3, d)`` or ``(n, 2 + d, d)``."""
    counts, means, squares = moments[:, 0], moments[:, 1], moments[:, 2:]
    count = counts.sum(dim=0, keepdim=True)
    mean = (counts * means).sum(dim=0, keepdim=True) / count.clamp(min=1)
    between = _squares(counts.sqrt() * (means - mean), squares.shape[1] > 1)
    return torch.cat([count, mean, squares.sum(dim=0) + between])


def _squares(deviations: torch.Tensor, products: bool) -> torch.Tensor:
    """Sum up squares, or all products, of the components of n vectors."""
    return deviations.T @ deviations if products else deviations.square().sum(dim=0, keepdim=True)
