"""Principal component analysis as a linear layer."""

import torch
from anomalib.models.components import DynamicBufferMixin

__all__ = ["PrincipalComponents"]


class PrincipalComponents(DynamicBufferMixin):
    """Reduce descriptors to the principal components that keep a given part of their variance (Section 4.2).

    The directions are columns, of shape ``(d, k)``.

    Example:
        >>> reduction = PrincipalComponents(0.95)
        >>> reduction.fit(torch.randn(100, 1) @ torch.ones(1, 8))
        >>> reduction(torch.randn(5, 8)).shape
        torch.Size([5, 1])
    """

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, kept_variance: float = 0.95) -> None:
        super().__init__()
        if not 0 < kept_variance < 1:
            msg = f"kept_variance must lie between 0 and 1, got {kept_variance}."
            raise ValueError(msg)
        self.kept_variance = kept_variance
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("directions", torch.empty(0, 0))

    def fit(self, descriptors: torch.Tensor) -> None:
        """Find the principal components of descriptors of shape ``(n, d)``."""
        # Only the fit needs scikit-learn.
        from sklearn.decomposition import PCA

        analysis = PCA(self.kept_variance, svd_solver="covariance_eigh").fit(descriptors.double().cpu().numpy())
        self.mean = descriptors.new_tensor(analysis.mean_)
        self.directions = descriptors.new_tensor(analysis.components_.T)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Project descriptors ``(N, d)`` to their principal components ``(N, k)``."""
        return (descriptors - self.mean) @ self.directions
