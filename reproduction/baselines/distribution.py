"""The base of all models of the teacher's descriptors."""

from abc import abstractmethod
from typing import ClassVar

import torch
from anomalib.models.components import DynamicBufferMixin

__all__ = ["MOST_SAMPLES", "DescriptorDistribution", "check_fitted"]

MOST_SAMPLES = 1_000_000
"""Most that "all descriptors" may be, which bounds the memory: about every fourth pixel of a category of MVTec AD."""


def check_fitted(is_fitted: torch.Tensor) -> None:
    """Raise a ``RuntimeError`` if a model of descriptors is not fitted."""
    if not is_fitted:
        msg = "The model is not fitted yet: train it, or load a checkpoint of one that was trained."
        raise RuntimeError(msg)


class DescriptorDistribution(DynamicBufferMixin):
    """A model of the descriptors of anomaly-free images, which scores how far others are from it.

    The fitted values are parameters and buffers, so that checkpoints and exported models contain them. The mixin of
    anomalib lets the buffers take the sizes that a checkpoint has.
    """

    paper_samples: ClassVar[int] = 50_000
    """Descriptors that the paper fits the model to on MVTec AD."""

    @abstractmethod
    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the model to descriptors of shape ``(n, d)`` in float32, on the model's device."""

    @abstractmethod
    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score descriptors ``(N, d)``, to shape ``(N,)``: the larger, the less likely in an anomaly-free image."""
