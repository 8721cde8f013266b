"""K-Means: the distance to the nearest of a few cluster centres."""

import torch

from .distances import nearest_distance
from .distribution import DescriptorDistribution
from .principal_components import PrincipalComponents

__all__ = ["KMeans"]


class KMeans(DescriptorDistribution):
    """Cluster the descriptors, and score others by their distance to the nearest centre (Appendices B and C).

    Args:
        n_centres: Number of cluster centres.
        n_init: Number of random starts, of which the best counts. The paper names none.
        kept_variance: Part of the variance that the principal components before it keep.

    Raises:
        ValueError: If an argument is out of range.
    """

    centres: torch.Tensor

    def __init__(self, n_centres: int = 10, n_init: int = 3, kept_variance: float = 0.95) -> None:
        super().__init__()
        if n_centres < 1 or n_init < 1:
            msg = f"n_centres and n_init must be at least 1, got {n_centres} and {n_init}."
            raise ValueError(msg)
        self.n_centres = n_centres
        self.n_init = n_init
        self.reduction = PrincipalComponents(kept_variance)
        self.register_buffer("centres", torch.empty(0, 0))

    def fit(self, descriptors: torch.Tensor) -> None:
        """Find the principal components, and cluster them. Raises a ``ValueError`` if there are too few descriptors."""
        if len(descriptors) < self.n_centres:
            msg = (
                f"There are only {len(descriptors)} descriptors for {self.n_centres} centres: train on more images, "
                "raise n_samples, or lower n_centres."
            )
            raise ValueError(msg)
        # Only the fit needs scikit-learn.
        from sklearn import cluster

        self.reduction.fit(descriptors)
        # With torch's random numbers, which the trainer's seed governs.
        seed = int(torch.randint(2**31, ()))
        clustering = cluster.KMeans(self.n_centres, n_init=self.n_init, random_state=seed)
        clustering.fit(self.reduction(descriptors).double().cpu().numpy())
        self.centres = descriptors.new_tensor(clustering.cluster_centers_)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Distance to the nearest centre."""
        return nearest_distance(self.reduction(descriptors), self.centres)
