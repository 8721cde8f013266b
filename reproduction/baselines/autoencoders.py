"""Fully connected autoencoders of descriptors (Appendices B and C).

The variational one is scored by the reconstruction probability of An and Cho, "Variational Autoencoder based Anomaly
Detection using Reconstruction Probability", SNU Data Mining Center, Technical Report, 2015.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from tqdm import trange

__all__ = ["Autoencoder", "VariationalAutoencoder"]

HIDDEN_WIDTHS = (64, 32, 10)
"""Widths of the encoder's layers. The paper's 128 before them is the dimension of its descriptors."""
NEGATIVE_SLOPE = 5e-3
WEIGHT_DECAY = 1e-5
LARGEST_LOG_VARIANCE = 10.0
"""Bound on the absolute value of logarithms of variances, which keeps scores finite far from the training data."""
PASSES = 5
"""Codes that the variational autoencoder draws for each descriptor (Appendix B)."""


def fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Make linear layers of the given widths, with leaky rectified linear units between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(NEGATIVE_SLOPE)]
    return nn.Sequential(*layers[:-1])


class TrainedModel(nn.Module):
    """A model of descriptors that Adam trains.

    Args:
        epochs: Passes over the descriptors.
        lr: Learning rate: 1e-4 on MVTec AD (Appendix C), 1e-2 on MNIST and CIFAR-10 (Appendix B).
        batch_size: Descriptors in a batch: 512 on MVTec AD, 64 on MNIST and CIFAR-10.
        max_gradient_norm: l2 norm that gradients are clipped to; infinity for no clipping, as in the paper.
    """

    def __init__(
        self, epochs: int = 100, lr: float = 1e-4, batch_size: int = 512, max_gradient_norm: float = math.inf
    ) -> None:
        super().__init__()
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.max_gradient_norm = max_gradient_norm

    def fit(self, descriptors: torch.Tensor) -> None:
        """Train on descriptors ``(n, d)``. Raises a ``ValueError`` if the training diverges."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=WEIGHT_DECAY)
        for _ in trange(self.epochs, desc=type(self).__name__, unit="epoch", leave=False):
            for indices in torch.randperm(len(descriptors), device=descriptors.device).split(self.batch_size):
                optimizer.zero_grad()
                self.loss(descriptors[indices]).backward()
                nn.utils.clip_grad_norm_(self.parameters(), self.max_gradient_norm)
                optimizer.step()
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            msg = f"The training of the {type(self).__name__} diverged: use a smaller lr than {self.lr}."
            raise ValueError(msg)

    @abstractmethod
    def loss(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch of descriptors ``(B, d)``, a scalar."""


class Autoencoder(TrainedModel):
    """Score descriptors by the squared l2 error of their reconstruction from a code of 10 values (Appendix B).

    Args:
        descriptor_dim: Dimension d of the descriptors.
        settings: See :class:`TrainedModel`.
    """

    def __init__(self, descriptor_dim: int = 128, **settings: float) -> None:
        super().__init__(**settings)
        widths = (descriptor_dim, *HIDDEN_WIDTHS)
        self.network = nn.Sequential(fully_connected(widths), fully_connected(widths[::-1]))

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score descriptors ``(N, d)``, to shape ``(N,)``."""
        return (self.network(descriptors) - descriptors).square().sum(dim=1)

    def loss(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Mean reconstruction error."""
        return self(descriptors).mean()


class VariationalAutoencoder(TrainedModel):
    """Score descriptors by how improbable they are given codes drawn for them (Appendix B).

    The encoder gives a normal distribution of codes, the decoder one of descriptors, each with independent components.

    Args:
        descriptor_dim: Dimension d of the descriptors.
        settings: See :class:`TrainedModel`.
    """

    noise: torch.Tensor

    def __init__(self, descriptor_dim: int = 128, **settings: float) -> None:
        super().__init__(**settings)
        *hidden, code_dim = HIDDEN_WIDTHS
        # Both networks give means and logarithms of variances.
        self.encoder = fully_connected((descriptor_dim, *hidden, 2 * code_dim))
        self.decoder = fully_connected((code_dim, *reversed(hidden), 2 * descriptor_dim))
        # The same for all descriptors, so that neighbours are scored alike.
        self.register_buffer("noise", torch.randn(PASSES, 1, code_dim))

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Score descriptors by the negative logarithm of the reconstruction probability, averaged over the passes."""
        mean, log_variance = _normal(self.encoder(descriptors))
        codes = mean + (log_variance / 2).exp() * self.noise
        return self._negative_log_likelihood(descriptors, codes).mean(dim=0)

    def loss(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Negative evidence lower bound, from one code for each descriptor."""
        mean, log_variance = _normal(self.encoder(descriptors))
        codes = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        # Kullback-Leibler divergence from the standard normal distribution.
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return (self._negative_log_likelihood(descriptors, codes) + divergence).mean()

    def _negative_log_likelihood(self, descriptors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        mean, log_variance = _normal(self.decoder(codes))
        squared_deviation = (descriptors - mean).square() * (-log_variance).exp()
        return (squared_deviation + log_variance + math.log(2 * math.pi)).sum(dim=-1) / 2


def _normal(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the outputs of a network into means and logarithms of variances."""
    mean, log_variance = outputs.chunk(2, dim=-1)
    return mean, log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)
