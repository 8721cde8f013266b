"""A small dictionary of typical features."""

import torch
from torch.nn import functional

from reproduction.baselines.distances import squared_distances
from reproduction.baselines.k_means import KMeans

__all__ = ["FeatureDictionary"]


class FeatureDictionary(KMeans):
    """Keep the features nearest to the centres of K-Means, and score others by their distance to them.

    Features are normalised to an l1 norm of one, and reduced to their principal components (Napoletano et al., Sections
    4 and 6). The distances to the ``n_nearest`` entries are averaged.

    Example:
        >>> dictionary = FeatureDictionary(n_entries=4)
        >>> dictionary.fit(torch.rand(100, 8))
        >>> dictionary(torch.rand(5, 8)).shape
        torch.Size([5])
    """

    def __init__(self, n_entries: int = 10, n_nearest: int = 1, n_init: int = 3, kept_variance: float = 0.95) -> None:
        super().__init__(n_centres=n_entries, n_init=n_init, kept_variance=kept_variance)
        if not 1 <= n_nearest <= n_entries:
            msg = f"n_nearest must lie between 1 and n_entries {n_entries}, got {n_nearest}."
            raise ValueError(msg)
        self.n_nearest = n_nearest

    def fit(self, descriptors: torch.Tensor) -> None:
        """Find the principal components, cluster them, and move each centre to the nearest of them.

        Raises a ``ValueError`` if there are fewer features than entries.
        """
        if len(descriptors) < self.n_centres:
            msg = (
                f"The dictionary has {self.n_centres} entries, but there are only {len(descriptors)} patches to choose "
                "them from: raise patches_per_image and n_samples, or lower n_entries."
            )
            raise ValueError(msg)
        normalised = functional.normalize(descriptors, p=1, dim=1)
        super().fit(normalised)
        components = self.reduction(normalised)
        self.centres = components[squared_distances(self.centres, components).argmin(dim=1)]

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score features ``(N, d)`` by the mean distance to the nearest entries, to shape ``(N,)``."""
        components = self.reduction(functional.normalize(descriptors, p=1, dim=1))
        distances = squared_distances(components, self.centres).sqrt()
        return distances.topk(self.n_nearest, dim=1, largest=False).values.mean(dim=1)
