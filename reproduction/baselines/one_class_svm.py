"""One-class support vector machine with a radial basis function kernel."""

import logging
from typing import Literal

import torch

from .distances import REFERENCES_AT_ONCE, squared_distances
from .distribution import DescriptorDistribution
from .principal_components import PrincipalComponents

__all__ = ["OneClassSVM"]

logger = logging.getLogger(__name__)

CACHE_MB = 1000
"""Memory in megabytes for rows of the kernel matrix while the support vectors are sought."""


class OneClassSVM(DescriptorDistribution):
    """Find a region that most descriptors lie in, and score others by how far they are outside of it.

    The paper names the kernel only (Appendices B and C); ``nu`` and ``gamma`` are scikit-learn's defaults. The support
    vectors are found by scikit-learn. Their kernel expansion is evaluated here, in large products of matrices.

    Args:
        nu: Bound on the part of the descriptors outside of the region, and on the part that become support vectors
            from below; in ``(0, 1]``. A smaller one is faster, at fit and at inference.
        gamma: Coefficient of the kernel ``exp(-gamma |x - y|^2)``, or ``"scale"`` for one over the sum of the variances
            of the principal components.
        kept_variance: Part of the variance that the principal components before it keep.

    Raises:
        ValueError: If an argument is out of range.
    """

    support_vectors: torch.Tensor
    weights: torch.Tensor
    offset: torch.Tensor
    kernel_gamma: torch.Tensor

    def __init__(self, nu: float = 0.5, gamma: float | Literal["scale"] = "scale", kept_variance: float = 0.95) -> None:
        super().__init__()
        if not 0 < nu <= 1:
            msg = f"nu must lie between 0 and 1, got {nu}."
            raise ValueError(msg)
        if gamma != "scale" and (isinstance(gamma, str) or gamma <= 0):
            msg = f"gamma must be positive, or 'scale'; got {gamma!r}."
            raise ValueError(msg)
        self.nu = nu
        self.gamma = gamma
        self.reduction = PrincipalComponents(kept_variance)
        self.register_buffer("support_vectors", torch.empty(0, 0))
        self.register_buffer("weights", torch.empty(0))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("kernel_gamma", torch.ones(()))

    def fit(self, descriptors: torch.Tensor) -> None:
        """Find the principal components, and the support vectors among them."""
        # Only the fit needs scikit-learn.
        from sklearn import svm

        self.reduction.fit(descriptors)
        components = self.reduction(descriptors).double().cpu()
        # scikit-learn's "scale" takes the variance over all components together; those of a PCA have mean zero, so
        # that it is the same.
        gamma = 1 / float(components.square().mean(dim=0).sum()) if self.gamma == "scale" else float(self.gamma)
        logger.info("Seeking support vectors among %d descriptors; this can take minutes.", len(components))
        machine = svm.OneClassSVM(kernel="rbf", nu=self.nu, gamma=gamma, cache_size=CACHE_MB).fit(components.numpy())
        logger.info("Found %d support vectors.", len(machine.support_))
        self.support_vectors = descriptors.new_tensor(machine.support_vectors_)
        self.weights = descriptors.new_tensor(machine.dual_coef_[0])
        self.offset = descriptors.new_tensor(machine.offset_[0])
        self.kernel_gamma = descriptors.new_tensor(gamma)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Offset minus kernel expansion, which is positive outside of the region."""
        components = self.reduction(descriptors)
        blocks = zip(
            self.support_vectors.split(REFERENCES_AT_ONCE), self.weights.split(REFERENCES_AT_ONCE), strict=True
        )
        sums = [
            torch.exp(-self.kernel_gamma * squared_distances(components, vectors)) @ weights
            for vectors, weights in blocks
        ]
        return self.offset - torch.stack(sums).sum(dim=0)
