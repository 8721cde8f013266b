"""Variational autoencoder of the teacher's descriptors, scored by the reconstruction probability.

An and Cho: "Variational Autoencoder based Anomaly Detection using Reconstruction Probability", SNU Data Mining Center,
Technical Report, 2015.
"""

import math
from typing import Any

import torch

from .gradient_descent import HIDDEN_WIDTHS, TrainedDistribution, fully_connected

__all__ = ["VariationalAutoencoder"]

LARGEST_LOG_VARIANCE = 10.0
"""Bound on the absolute value of logarithms of variances, which keeps scores finite far from the training data."""


class VariationalAutoencoder(TrainedDistribution):
    """Score descriptors by how improbable they are given codes drawn for them (Appendix B).

    The encoder gives a normal distribution of codes, the decoder one of descriptors, each with independent components.
    Five codes are drawn for each descriptor, always from the same noise, so that scores are reproducible.

    Args:
        descriptor_dim: Dimension d of the descriptors.
        n_passes: Codes drawn for each descriptor at inference.
        settings: See :class:`.gradient_descent.TrainedDistribution`.

    Raises:
        ValueError: If an argument is out of range.
    """

    noise: torch.Tensor

    def __init__(self, descriptor_dim: int = 128, n_passes: int = 5, **settings: Any) -> None:
        super().__init__(**settings)
        if n_passes < 1:
            msg = f"n_passes must be at least 1, got {n_passes}."
            raise ValueError(msg)
        *hidden, code_dim = HIDDEN_WIDTHS
        # Both networks give means and logarithms of variances.
        self.encoder = fully_connected((descriptor_dim, *hidden, 2 * code_dim))
        self.decoder = fully_connected((code_dim, *reversed(hidden), 2 * descriptor_dim))
        self.register_buffer("noise", torch.randn(n_passes, 1, code_dim))

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Negative logarithm of the reconstruction probability, averaged over the passes."""
        mean, log_variance = self._encode(descriptors)
        codes = mean + (log_variance / 2).exp() * self.noise
        return self._negative_log_likelihood(descriptors, codes).mean(dim=0)

    def loss(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Negative evidence lower bound, from one code for each descriptor."""
        mean, log_variance = self._encode(descriptors)
        codes = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        # Kullback-Leibler divergence from the standard normal distribution.
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return (self._negative_log_likelihood(descriptors, codes) + divergence).mean()

    def _encode(self, descriptors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _mean_and_log_variance(self.encoder(descriptors))

    def _negative_log_likelihood(self, descriptors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        mean, log_variance = _mean_and_log_variance(self.decoder(codes))
        squared_deviation = (descriptors - mean).square() * (-log_variance).exp()
        return (squared_deviation + log_variance + math.log(2 * math.pi)).sum(dim=-1) / 2


def _mean_and_log_variance(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_variance = outputs.chunk(2, dim=-1)
    return mean, log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)
