"""The teacher, and a model of the distribution of its descriptors."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_students.model.anomaly_map import prediction
from anomalib_students.model.describers import Mode, create_describer
from anomalib_students.model.deviation_floors import descriptor_divisor
from anomalib_students.networks.dense import Patches
from anomalib_students.networks.patch_network import Architecture, PatchNetwork

from .distribution import check_fitted
from .methods import Method, create_distribution

__all__ = ["DescriptorBaselineModel"]

DESCRIPTORS_AT_ONCE = 4096
"""Descriptors that are scored at once, which bounds the memory."""


class DescriptorBaselineModel(nn.Module):
    """Score each pixel, or each image, by how far its descriptor is from those of anomaly-free images.

    For the arguments see :class:`.lightning_model.DescriptorBaseline`. The frozen teacher has random weights until they
    are loaded.

    Example:
        >>> model = DescriptorBaselineModel("k_means").eval()
        >>> model.fit(model.describe(torch.rand(2, 3, 64, 64)))
        >>> predictions = model(torch.rand(1, 3, 64, 64))
        >>> predictions.anomaly_map.shape, predictions.pred_score.shape
        (torch.Size([1, 1, 64, 64]), torch.Size([1]))
    """

    descriptor_mean: torch.Tensor
    descriptor_std: torch.Tensor
    is_fitted: torch.Tensor

    def __init__(
        self,
        method: Method,
        patch_size: int = 33,
        output_stride: int = 4,
        descriptor_dim: int = 128,
        architecture: Architecture = "paper",
        max_tile: int = 512,
        standardise: bool = True,
        settings: Mapping[str, Any] | None = None,
        mode: Mode = "pixel",
    ) -> None:
        super().__init__()
        self.mode = mode
        self.describer = create_describer(mode, output_stride, max_tile)
        self.standardise = standardise
        self.teacher = PatchNetwork(patch_size, descriptor_dim, architecture).requires_grad_(requires_grad=False)
        self.distribution = create_distribution(method, descriptor_dim, settings, mode)
        self.register_buffer("descriptor_mean", torch.zeros(descriptor_dim))
        self.register_buffer("descriptor_std", torch.ones(descriptor_dim))
        self.register_buffer("is_fitted", torch.tensor(data=False))

    @torch.no_grad()
    def describe(self, images: torch.Tensor) -> torch.Tensor:
        """Describe normalised images ``(B, 3, H, W)`` by descriptors of shape ``(n, d)``.

        These are of every s-th pixel, or in the mode ``"patch"`` of each image.
        """
        parts = self.describer.patches(self.teacher, images)
        return torch.cat([_vectors(patches.describe(self.teacher)) for patches in parts]).float()

    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the model to descriptors ``(n, d)`` of anomaly-free images."""
        device = self.is_fitted.device
        descriptors = descriptors.to(device)
        if self.standardise:
            std, self.descriptor_mean = torch.std_mean(descriptors, dim=0, correction=0)
            self.descriptor_std = descriptor_divisor(self.descriptor_mean, std)
        with torch.autocast(device.type, enabled=False):
            self.distribution.fit(self._normalised(descriptors))
        self.is_fitted.fill_(value=True)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Predict the anomaly maps ``(B, 1, H, W)`` of normalised images, and their maxima ``(B,)`` as scores.

        In the mode ``"patch"`` there are scores alone. Raises a ``RuntimeError`` if the model is not fitted yet.
        """
        is_exporting = torch.compiler.is_exporting()
        if not is_exporting:
            check_fitted(self.is_fitted)
        with nullcontext() if is_exporting else torch.no_grad():
            scores = self.describer.score(self.teacher, images, self._scores)
        return prediction(scores, images, has_map=self.mode == "pixel")

    def _scores(self, patches: Patches) -> torch.Tensor:
        """Score patches, to shape ``(B, rows, columns)``."""
        descriptors = patches.describe(self.teacher)
        vectors = self._normalised(_vectors(descriptors.float()))
        if torch.compiler.is_exporting():
            scores = self.distribution(vectors)
        else:
            # Differences between distances are lost in half precision.
            with torch.autocast(vectors.device.type, enabled=False):
                scores = torch.cat([self.distribution(part) for part in vectors.split(DESCRIPTORS_AT_ONCE)])
        return scores.reshape(descriptors[:, 0].shape)

    def _normalised(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors - self.descriptor_mean) / self.descriptor_std


def _vectors(descriptors: torch.Tensor) -> torch.Tensor:
    """Put descriptors of shape ``(B, d, h, w)`` below each other, to ``(B h w, d)``."""
    return descriptors.movedim(1, -1).flatten(0, -2)
