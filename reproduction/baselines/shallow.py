"""Shallow models of descriptors, each after a principal component analysis: 1-NN, K-Means and a one-class SVM."""

from abc import abstractmethod

import torch
from sklearn import cluster, svm
from sklearn.decomposition import PCA
from torch import nn

__all__ = ["KMeans", "NearestNeighbour", "OneClassSVM", "ShallowModel"]

KEPT_VARIANCE = 0.95
"""Fraction of the variance that the principal components keep (Section 4.2)."""
CACHE_MB = 1000
"""Memory in megabytes for rows of the kernel matrix while the support vectors are sought."""
SUPPORT_VECTORS_AT_ONCE = 2048


class ShallowModel(nn.Module):
    """A model of the principal components of descriptors.

    Example:
        >>> model = KMeans(n_centres=3)
        >>> model.fit(torch.rand(100, 8))
        >>> model(torch.rand(5, 8)).shape
        torch.Size([5])
    """

    mean: torch.Tensor
    directions: torch.Tensor

    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the model to descriptors ``(n, d)`` of anomaly-free images."""
        analysis = PCA(KEPT_VARIANCE, svd_solver="covariance_eigh").fit(descriptors.double().cpu().numpy())
        self.register_buffer("mean", descriptors.new_tensor(analysis.mean_))
        self.register_buffer("directions", descriptors.new_tensor(analysis.components_.T))
        self._fit(self._components(descriptors))

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score descriptors ``(N, d)``, to shape ``(N,)``: the larger, the less likely in an anomaly-free image."""
        return self._score(self._components(descriptors))

    def _components(self, descriptors: torch.Tensor) -> torch.Tensor:
        return (descriptors - self.mean) @ self.directions

    @abstractmethod
    def _fit(self, components: torch.Tensor) -> None:
        """Fit the model to principal components ``(n, k)``."""

    @abstractmethod
    def _score(self, components: torch.Tensor) -> torch.Tensor:
        """Score principal components ``(N, k)``."""


class NearestNeighbour(ShallowModel):
    """Score by the distance to the nearest of stored descriptors.

    Args:
        dictionary_size: Number of descriptors to keep, drawn at random (Appendix C); None for all (Appendix B).
    """

    def __init__(self, dictionary_size: int | None = 5000) -> None:
        super().__init__()
        self.dictionary_size = dictionary_size

    def _fit(self, components: torch.Tensor) -> None:
        chosen = torch.randperm(len(components))[: self.dictionary_size]
        self.register_buffer("dictionary", components[chosen.to(components.device)])

    def _score(self, components: torch.Tensor) -> torch.Tensor:
        return torch.cdist(components, self.dictionary).amin(dim=1)


class KMeans(ShallowModel):
    """Score by the distance to the nearest of a few cluster centres (Appendices B and C).

    Args:
        n_centres: Number of cluster centres.
        n_init: Number of random starts, the best of which counts. The paper names none.
    """

    def __init__(self, n_centres: int = 10, n_init: int = 3) -> None:
        super().__init__()
        self.n_centres = n_centres
        self.n_init = n_init

    def _fit(self, components: torch.Tensor) -> None:
        # With torch's random numbers, which the seed of the experiment governs.
        seed = int(torch.randint(2**31, ()))
        clustering = cluster.KMeans(self.n_centres, n_init=self.n_init, random_state=seed)
        clustering.fit(components.double().cpu().numpy())
        self.register_buffer("centres", components.new_tensor(clustering.cluster_centers_))

    def _score(self, components: torch.Tensor) -> torch.Tensor:
        return torch.cdist(components, self.centres).amin(dim=1)


class OneClassSVM(ShallowModel):
    """Score by how far descriptors are outside of the region that a one-class support vector machine finds.

    The paper names only the kernel, a radial basis function; the other settings are scikit-learn's defaults. The
    support vectors are found by scikit-learn, and their kernel expansion is evaluated here as products of matrices.
    """

    def _fit(self, components: torch.Tensor) -> None:
        # scikit-learn's "scale": principal components have a mean of zero.
        self.gamma = 1 / float(components.double().square().mean(dim=0).sum())
        machine = svm.OneClassSVM(gamma=self.gamma, cache_size=CACHE_MB).fit(components.double().cpu().numpy())
        self.register_buffer("support_vectors", components.new_tensor(machine.support_vectors_))
        self.register_buffer("weights", components.new_tensor(machine.dual_coef_[0]))
        self.offset = float(machine.offset_[0])

    def _score(self, components: torch.Tensor) -> torch.Tensor:
        size = SUPPORT_VECTORS_AT_ONCE
        blocks = zip(self.support_vectors.split(size), self.weights.split(size), strict=True)
        expansion = [
            torch.exp(-self.gamma * torch.cdist(components, vectors).square()) @ weights for vectors, weights in blocks
        ]
        return self.offset - torch.stack(expansion).sum(dim=0)
