"""The methods that the paper fits to the teacher's descriptors, by name."""

from typing import Any, Literal, cast

import torch
from torch import nn

from anomalib_students.model.normalisation import descriptor_divisor

from .autoencoders import Autoencoder, VariationalAutoencoder
from .shallow import KMeans, NearestNeighbour, OneClassSVM

__all__ = ["METHODS", "DescriptorMethod", "Method"]

Method = Literal["nearest_neighbour", "one_class_svm", "k_means", "autoencoder", "variational_autoencoder"]

METHODS: dict[Method, Any] = {
    "nearest_neighbour": NearestNeighbour,
    "one_class_svm": OneClassSVM,
    "k_means": KMeans,
    "autoencoder": Autoencoder,
    "variational_autoencoder": VariationalAutoencoder,
}
TRAINED = ("autoencoder", "variational_autoencoder")
"""Methods that are fitted to all descriptors on MVTec AD; the others are fitted to 50,000 (Section 4.2)."""
ONE_CLASS: dict[str, dict[str, Any]] = {
    "nearest_neighbour": {"dictionary_size": None},
    "autoencoder": {"lr": 1e-2, "batch_size": 64},
    # Without the clipping, which is not in the paper, this learning rate can drive the variances to their bounds.
    "variational_autoencoder": {"lr": 1e-2, "batch_size": 64, "max_gradient_norm": 10.0},
}
"""Settings for MNIST and CIFAR-10 (Appendix B) that differ from those for MVTec AD (Appendix C)."""
AT_ONCE = 4096
"""Descriptors that are scored at once, which bounds the memory."""


class DescriptorMethod(nn.Module):
    """Standardise descriptors as for the students (eq. 7), and score how far they are from those of good images.

    The paper does not say whether it standardises them for these methods.

    Args:
        name: Method.
        one_class: Whether its settings are those for MNIST and CIFAR-10.
        settings: Settings that replace those of the paper.

    Example:
        >>> method = DescriptorMethod("k_means")
        >>> method.fit(torch.rand(100, 128))
        >>> method(torch.rand(5, 128)).shape
        torch.Size([5])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: Method, one_class: bool = False, **settings: Any) -> None:
        super().__init__()
        self.model = METHODS[name](**{**(ONE_CLASS.get(name, {}) if one_class else {}), **settings})

    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the method to descriptors ``(n, d)`` of good images, in float32."""
        std, mean = torch.std_mean(descriptors, dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", descriptor_divisor(mean, std))
        cast("Any", self.model).to(descriptors.device).fit((descriptors - mean) / self.std)

    @torch.no_grad()
    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score descriptors ``(N, d)``, to shape ``(N,)``."""
        return torch.cat([self.model((chunk - self.mean) / self.std) for chunk in descriptors.split(AT_ONCE)])
