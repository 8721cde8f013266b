"""Covariance of vectors that arrive in parts, in double precision."""

import torch

__all__ = ["RunningCovariance", "effective_dimension"]


class RunningCovariance:
    """Accumulate mean and covariance over any number of vectors.

    Parts are merged with the update of Chan, Golub and LeVeque (1979), which loses no precision to large means.

    Args:
        dim: Number d of components.

    Attributes:
        count: Number of vectors so far.
        mean: Mean vector of shape ``(d,)`` in float64, on the CPU.

    Example:
        >>> covariance = RunningCovariance(dim=2)
        >>> covariance.update(torch.tensor([[1.0, 2.0]]))
        >>> covariance.update(torch.tensor([[3.0, 6.0]]))
        >>> covariance.covariance
        tensor([[1., 2.],
                [2., 4.]], dtype=torch.float64)
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of all vectors so far, of shape ``(d, d)`` in float64."""
        return self._scatter / self.count

    @torch.no_grad()
    def update(self, vectors: torch.Tensor) -> None:
        """Add vectors.

        Args:
            vectors: Vectors of shape ``(n, d)`` with ``n >= 1``, on any device.
        """
        # Not every accelerator computes in float64.
        part = vectors.to("cpu", torch.float64)
        mean = part.mean(0)
        centred = part - mean
        total = self.count + len(part)
        delta = mean - self.mean
        self._scatter += centred.T @ centred + torch.outer(delta, delta) * (self.count * len(part) / total)
        self.mean = self.mean + delta * (len(part) / total)
        self.count = total


def effective_dimension(covariance: torch.Tensor) -> float:
    """Measure in how many directions vectors vary: the participation ratio of the eigenvalues of their covariance.

    Args:
        covariance: Covariance of shape ``(d, d)``, not 0.

    Returns:
        Square of the sum of the eigenvalues divided by the sum of their squares: from 1, if all variance lies in one
        direction, to d, if it is the same in all.

    Example:
        >>> effective_dimension(torch.diag(torch.tensor([5.0, 5.0, 0.0])))
        2.0
    """
    # Trace and Frobenius norm are sums of the eigenvalues and of their squares.
    return float(covariance.trace().square() / covariance.square().sum())
