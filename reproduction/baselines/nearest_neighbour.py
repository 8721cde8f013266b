"""1-NN: the distance to the nearest of many stored descriptors."""

import torch

from .distances import nearest_distance
from .distribution import DescriptorDistribution
from .principal_components import PrincipalComponents

__all__ = ["NearestNeighbour"]


class NearestNeighbour(DescriptorDistribution):
    """Keep a dictionary of descriptors, and score others by their distance to the nearest one (Appendix C).

    Args:
        dictionary_size: Number of descriptors to keep, drawn at random; ``None`` keeps all, as the paper does on MNIST
            and CIFAR-10 (Appendix B).
        kept_variance: Part of the variance that the principal components before it keep.

    Raises:
        ValueError: If an argument is out of range.
    """

    dictionary: torch.Tensor

    def __init__(self, dictionary_size: int | None = 5000, kept_variance: float = 0.95) -> None:
        super().__init__()
        if dictionary_size is not None and dictionary_size < 1:
            msg = f"dictionary_size must be at least 1, or None for all descriptors; got {dictionary_size}."
            raise ValueError(msg)
        self.dictionary_size = dictionary_size
        self.reduction = PrincipalComponents(kept_variance)
        self.register_buffer("dictionary", torch.empty(0, 0))

    def fit(self, descriptors: torch.Tensor) -> None:
        """Find the principal components, and draw the dictionary."""
        self.reduction.fit(descriptors)
        chosen = torch.randperm(len(descriptors))[: self.dictionary_size]
        self.dictionary = self.reduction(descriptors[chosen.to(descriptors.device)])

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Distance to the nearest descriptor of the dictionary."""
        return nearest_distance(self.reduction(descriptors), self.dictionary)
