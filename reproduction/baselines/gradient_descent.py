"""Fully connected autoencoders of descriptors, and how they are trained (Appendices B and C)."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn
from tqdm import tqdm

from anomalib_students.networks.patch_network import NEGATIVE_SLOPE

from .distribution import MOST_SAMPLES, DescriptorDistribution

__all__ = ["HIDDEN_WIDTHS", "TrainedDistribution", "fully_connected"]

HIDDEN_WIDTHS = (64, 32, 10)
"""Widths of the encoder's layers. The paper's 128 before them is the dimension of its descriptors."""


def fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Make linear layers of the given widths, with leaky rectified linear units between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(NEGATIVE_SLOPE)]
    return nn.Sequential(*layers[:-1])


class TrainedDistribution(DescriptorDistribution):
    """A model of the descriptors that is trained by gradient descent.

    Args:
        epochs: Passes over the descriptors.
        lr: Learning rate of Adam: 1e-4 on MVTec AD (Appendix C), 1e-2 on MNIST and CIFAR-10 (Appendix B).
        weight_decay: Weight decay of Adam.
        batch_size: Descriptors in a batch: 512 on MVTec AD, 64 on MNIST and CIFAR-10.
        max_gradient_norm: l2 norm that gradients are clipped to, or ``None`` for no clipping, as in the paper.

    Raises:
        ValueError: If an argument is out of range.
    """

    # "All available descriptors" (Section 4.2).
    paper_samples: ClassVar[int] = MOST_SAMPLES

    def __init__(
        self,
        epochs: int = 100,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        batch_size: int = 512,
        max_gradient_norm: float | None = None,
    ) -> None:
        super().__init__()
        if min(epochs, batch_size) < 1 or lr <= 0 or weight_decay < 0:
            msg = (
                "epochs and batch_size must be at least 1, lr positive and weight_decay not negative; got "
                f"epochs={epochs}, batch_size={batch_size}, lr={lr}, weight_decay={weight_decay}."
            )
            raise ValueError(msg)
        if max_gradient_norm is not None and max_gradient_norm <= 0:
            msg = f"max_gradient_norm must be positive, or None for no clipping; got {max_gradient_norm}."
            raise ValueError(msg)
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_gradient_norm = max_gradient_norm

    def fit(self, descriptors: torch.Tensor) -> None:
        """Train on the descriptors. Raises a ``ValueError`` if the training diverges."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        # Lightning's validation, before which models are fitted, turns gradients off.
        with torch.enable_grad():
            for _ in tqdm(range(self.epochs), desc=type(self).__name__, unit="epoch", leave=False):
                for indices in torch.randperm(len(descriptors), device=descriptors.device).split(self.batch_size):
                    optimizer.zero_grad()
                    self.loss(descriptors[indices]).backward()
                    if self.max_gradient_norm is not None:
                        nn.utils.clip_grad_norm_(self.parameters(), self.max_gradient_norm)
                    optimizer.step()
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            msg = f"The training of the {type(self).__name__} diverged. Use a smaller lr."
            raise ValueError(msg)

    @abstractmethod
    def loss(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch of descriptors ``(B, d)``, a scalar."""
