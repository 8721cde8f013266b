"""The teacher, and a model of the distribution of its descriptors."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_students.model.anomaly_map import prediction
from anomalib_students.model.dense import Patches
from anomalib_students.model.describers import Mode, create_describer
from anomalib_students.model.deviation_floors import descriptor_divisor
from anomalib_students.model.patch_network import Architecture, PatchNetwork

from .distribution import check_fitted
from .methods import Method, create_distribution

__all__ = ["DescriptorBaselineModel"]

DESCRIPTORS_AT_ONCE = 4096
"""Descriptors that are scored at once, which bounds the memory."""


class DescriptorBaselineModel(nn.Module):
    """Score each pixel, or each image, by how far its descriptor is from those of anomaly-free images.

    Args:
        method: Name of the method.
        patch_size: Side p of the teacher's receptive field: 17, 33 or 65.
        output_stride: Distance in pixels between descriptors: 1, 2, 4 or 8.
        descriptor_dim: Dimension d of the descriptors.
        architecture: Architecture of the teacher.
        max_tile: Largest side in pixels of what is described at once, with the scores of the whole image; see
            :class:`~anomalib_students.model.describers.Describer`.
        standardise: Whether each dimension of the descriptors is brought to mean 0 and standard deviation 1 over the
            training images, as it is for the students (eq. 7).
        settings: Arguments of the method's class that differ from the paper's.
        mode: ``"pixel"`` to score every pixel, ``"patch"`` to zoom each image to p x p and score it as the one patch
            that it then is (Section 4.1), to which ``output_stride`` means nothing.

    Attributes:
        teacher: Frozen patch network. Its weights are random until they are loaded.
        descriptor_mean: What is subtracted from descriptors, of shape ``(d,)``.
        descriptor_std: What they are then divided by, of shape ``(d,)``.
        distribution: Model of the descriptors.
        is_fitted: Whether :meth:`fit` has been called; a scalar.

    Raises:
        ValueError: If an argument is out of range.

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
        """Describe images.

        Args:
            images: Normalised images of shape ``(B, 3, H, W)``.

        Returns:
            Descriptors of every s-th pixel of all images, or of the images, of shape ``(n, d)``.
        """
        parts = self.describer.patches(self.teacher, images)
        return torch.cat([_vectors(patches.describe(self.teacher)) for patches in parts]).float()

    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the model of the descriptors.

        Args:
            descriptors: Descriptors of anomaly-free images, of shape ``(n, d)``.
        """
        device = self.is_fitted.device
        descriptors = descriptors.to(device)
        if self.standardise:
            std, self.descriptor_mean = torch.std_mean(descriptors, dim=0, correction=0)
            self.descriptor_std = descriptor_divisor(self.descriptor_mean, std)
        with torch.autocast(device.type, enabled=False):
            self.distribution.fit(self._normalised(descriptors))
        self.is_fitted.fill_(value=True)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Predict.

        Args:
            images: Normalised images of shape ``(B, 3, H, W)``.

        Returns:
            The anomaly map of shape ``(B, 1, H, W)``, and its maximum as the score of the image, of shape ``(B,)``; in
            the mode ``"patch"`` the score alone.

        Raises:
            RuntimeError: If the model is not fitted yet.
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
