"""Deterministic autoencoder of the teacher's descriptors."""

from typing import Any

import torch

from .gradient_descent import HIDDEN_WIDTHS, TrainedDistribution, fully_connected

__all__ = ["Autoencoder"]


class Autoencoder(TrainedDistribution):
    """Score descriptors by the squared l2 error of their reconstruction from a code of 10 values (Appendix B).

    Args:
        descriptor_dim: Dimension d of the descriptors.
        settings: See :class:`.gradient_descent.TrainedDistribution`.
    """

    def __init__(self, descriptor_dim: int = 128, **settings: Any) -> None:
        super().__init__(**settings)
        widths = (descriptor_dim, *HIDDEN_WIDTHS)
        self.encoder = fully_connected(widths)
        self.decoder = fully_connected(widths[::-1])

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Reconstruction error."""
        return (self.decoder(self.encoder(descriptors)) - descriptors).square().sum(dim=1)

    def loss(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Mean reconstruction error."""
        return self(descriptors).mean()
