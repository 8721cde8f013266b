"""Features of patches, and a dictionary of those of anomaly-free images."""

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_students.model.anomaly_map import prediction, upsample
from anomalib_students.networks.dense import check_output_stride, reflect_pad
from anomalib_students.networks.resize import antialiased_resize
from anomalib_students.teacher.sources import DistillationSource
from reproduction.baselines.distribution import check_fitted

from .dictionary import FeatureDictionary

__all__ = ["CNNFeatureDictionaryModel"]

PATCHES_AT_ONCE = 64
"""Patches that the network sees at once, which bounds the memory."""


class CNNFeatureDictionaryModel(nn.Module):
    """Score each pixel by how far the features of the patch around it are from those of anomaly-free patches.

    The network sees every patch alone, cut out and resized to its input size. Its convolutions pad with zeros, so that
    the features of a patch are not among those of the whole image, and cannot be computed in one pass. For the
    arguments see :class:`.lightning_model.CNNFeatureDictionary`.

    Example:
        >>> model = CNNFeatureDictionaryModel(DistillationSource("bundled"), FeatureDictionary(), output_stride=8)
        >>> model.fit(model.describe(torch.rand(2, 3, 64, 64)))
        >>> predictions = model(torch.rand(1, 3, 64, 64))
        >>> predictions.anomaly_map.shape, predictions.pred_score.shape
        (torch.Size([1, 1, 64, 64]), torch.Size([1]))
    """

    is_fitted: torch.Tensor

    def __init__(
        self,
        source: DistillationSource,
        dictionary: FeatureDictionary,
        patch_size: int = 65,
        output_stride: int = 4,
        patches_per_image: int = 200,
    ) -> None:
        super().__init__()
        check_output_stride(output_stride)
        if patch_size < 1 or patches_per_image < 1:
            msg = (
                f"patch_size and patches_per_image must be at least 1, got patch_size={patch_size} and "
                f"patches_per_image={patches_per_image}."
            )
            raise ValueError(msg)
        self.source = source
        self.dictionary = dictionary
        self.patch_size = patch_size
        self.output_stride = output_stride
        self.patches_per_image = patches_per_image
        self.register_buffer("is_fitted", torch.tensor(data=False))

    @torch.no_grad()
    def describe(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of random patches of normalised images ``(B, 3, H, W)``, of shape ``(n, d)``."""
        features = []
        for windows in self._windows(images, stride=1):
            rows, columns = (torch.randint(side, (self.patches_per_image,)) for side in windows.shape[1:3])
            for part in range(0, self.patches_per_image, PATCHES_AT_ONCE):
                chosen = slice(part, part + PATCHES_AT_ONCE)
                features.append(self._features(windows[:, rows[chosen], columns[chosen]].movedim(0, 1)))
        return torch.cat(features)

    def fit(self, descriptors: torch.Tensor) -> None:
        """Fit the dictionary to features of anomaly-free patches, of shape ``(n, d)``."""
        device = self.is_fitted.device
        with torch.autocast(device.type, enabled=False):
            self.dictionary.fit(descriptors.to(device))
        self.is_fitted.fill_(value=True)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Predict the anomaly maps ``(B, 1, H, W)`` of normalised images, and their maxima ``(B,)`` as scores.

        Raises a ``RuntimeError`` if the model is not fitted yet.
        """
        windows = self._windows(images, self.output_stride)
        if torch.compiler.is_exporting():
            patches = windows.movedim(1, 3).flatten(0, 2)
            scores = self.dictionary(self._features(patches)).unflatten(0, (-1, *windows.shape[2:4]))
        else:
            check_fitted(self.is_fitted)
            scores = torch.stack([torch.stack([self._scores(row) for row in image.unbind(1)]) for image in windows])
        return prediction(upsample(scores.unsqueeze(1), self.output_stride, images.shape[-2:]), images)

    @torch.no_grad()
    def _scores(self, row: torch.Tensor) -> torch.Tensor:
        """Score a row of patches, of shape ``(3, w, p, p)``."""
        features = torch.cat([self._features(part.movedim(0, 1)) for part in row.split(PATCHES_AT_ONCE, dim=1)])
        # Differences between distances are lost in half precision.
        with torch.autocast(features.device.type, enabled=False):
            return self.dictionary(features)

    def _windows(self, images: torch.Tensor, stride: int) -> torch.Tensor:
        """View the patches around every s-th pixel, as a tensor of shape ``(B, 3, h, w, p, p)`` without a copy."""
        before, after = (self.patch_size - 1) // 2, self.patch_size // 2
        padded = reflect_pad(images, before, after, before, after)
        return padded.unfold(2, self.patch_size, stride).unfold(3, self.patch_size, stride)

    def _features(self, patches: torch.Tensor) -> torch.Tensor:
        # The source resizes likewise, but in a way that cannot be exported.
        side = self.source.input_size
        return self.source(antialiased_resize(patches, side, side)).float()
