"""Reconstruction of images, and its dissimilarity to them."""

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torchvision.transforms import v2

from anomalib_students.model.anomaly_map import prediction

from .network import ConvolutionalAutoencoder
from .similarity import CONSTANTS, structural_similarity

__all__ = ["SSIMAutoencoderModel"]


class SSIMAutoencoderModel(nn.Module):
    """Score each pixel by how much its surroundings differ from their reconstruction.

    Images are made grey, since the similarity is defined for grey images (Bergmann et al., CVPR 2019, Section 4.1.2).
    Where the patches that larger images are covered with overlap, their scores are averaged. For the arguments see
    :class:`.lightning_model.SSIMAutoencoder`.

    Example:
        >>> model = SSIMAutoencoderModel(patch_size=128).eval()
        >>> predictions = model(torch.rand(1, 3, 160, 128))
        >>> predictions.anomaly_map.shape, predictions.pred_score.shape
        (torch.Size([1, 1, 160, 128]), torch.Size([1]))
    """

    def __init__(
        self,
        patch_size: int = 256,
        latent_dim: int = 100,
        patch_stride: int = 30,
        ssim_constants: tuple[float, float] = CONSTANTS,
    ) -> None:
        super().__init__()
        if not 1 <= patch_stride <= patch_size:
            msg = f"patch_stride must lie between 1 and patch_size {patch_size}, got {patch_stride}."
            raise ValueError(msg)
        if min(ssim_constants) <= 0:
            msg = f"ssim_constants must be positive, got {tuple(ssim_constants)}."
            raise ValueError(msg)
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.c1, self.c2 = ssim_constants
        self.autoencoder = ConvolutionalAutoencoder(patch_size, latent_dim)
        self.crop = v2.RandomCrop(patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor | InferenceBatch:
        """Compute the loss in training, and predictions in evaluation, of images ``(B, 3, H, W)`` in ``[0, 1]``.

        The loss is the mean of 1 - SSIM over a patch of each image, a random one if the image is larger. Predictions
        are the anomaly maps ``(B, 1, H, W)`` in ``[0, 2]`` and their maxima. Raises a ``ValueError`` if the images are
        smaller than a patch.
        """
        if min(images.shape[-2:]) < self.patch_size:
            height, width = images.shape[-2:]
            msg = (
                f"Images of {height} x {width} pixels are smaller than patch_size {self.patch_size}: have the "
                "pre-processor resize them, or use a smaller patch_size."
            )
            raise ValueError(msg)
        grey = v2.functional.rgb_to_grayscale(images)
        if self.training:
            return self._dissimilarity(torch.stack([self.crop(image) for image in grey])).mean()
        with torch.no_grad():
            return prediction(self._anomaly_map(grey), images)

    def _dissimilarity(self, patches: torch.Tensor) -> torch.Tensor:
        return 1 - structural_similarity(self.autoencoder(patches), patches, self.c1, self.c2)

    def _anomaly_map(self, grey: torch.Tensor) -> torch.Tensor:
        height, width = grey.shape[-2:]
        size = self.patch_size
        total = torch.zeros_like(grey, dtype=torch.float32)
        count = torch.zeros(height, width, device=grey.device)
        for top in self._starts(height):
            for left in self._starts(width):
                patch = ..., slice(top, top + size), slice(left, left + size)
                total[patch] += self._dissimilarity(grey[patch])
                count[patch] += 1
        return total / count

    def _starts(self, side: int) -> list[int]:
        """First pixels of the patches along a side, the last of which ends with the image."""
        last = side - self.patch_size
        return [*range(0, last, self.patch_stride), last]
