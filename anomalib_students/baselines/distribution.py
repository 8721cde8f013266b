"""What all models of the teacher's descriptors have in common."""

from abc import abstractmethod
from typing import ClassVar

import torch
from anomalib.models.components import DynamicBufferMixin

__all__ = ["MOST_SAMPLES", "DescriptorDistribution", "check_fitted"]

MOST_SAMPLES = 1_000_000
"""What "all descriptors" are at most, which bounds the memory: about every fourth pixel of a category of MVTec AD."""


def check_fitted(is_fitted: torch.Tensor) -> None:
    """Refuse to score before a model of descriptors is fitted.

    Args:
        is_fitted: Whether it is; a scalar.

    Raises:
        RuntimeError: If it is not.
    """
    if not is_fitted:
        msg = "The model is not fitted yet: train it, or load a checkpoint of one that was trained."
        raise RuntimeError(msg)


class DescriptorDistribution(DynamicBufferMixin):
    """A model of the descriptors of anomaly-free images, which tells how far others are from it.

    What is fitted lies in parameters and buffers, so that checkpoints and exported models contain it. The mixin of
    anomalib lets the buffers take the sizes that a checkpoint has.

    Attributes:
        paper_samples: Descriptors that the paper fits the model to on MVTec AD.
    """

    paper_samples: ClassVar[int]

    @abstractmethod
    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the model.

        Args:
            descriptors: Descriptors of anomaly-free images, of shape ``(n, d)`` in float32, on the model's device.
        """

    @abstractmethod
    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score descriptors.

        Args:
            descriptors: Descriptors of shape ``(N, d)`` in float32.

        Returns:
            Scores of shape ``(N,)``: the larger, the less likely in an anomaly-free image.
        """
