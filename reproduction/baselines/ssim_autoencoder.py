"""SSIM-Autoencoder: an autoencoder of images that is trained and scored with structural similarity.

Bergmann et al., "Improving Unsupervised Defect Segmentation by Applying Structural Similarity to Autoencoders", VISAPP
2019, as evaluated in Bergmann et al., "MVTec AD", CVPR 2019, Section 4.1.2.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.transforms.v2 import RandomCrop
from torchvision.transforms.v2.functional import rgb_to_grayscale
from tqdm import trange

__all__ = ["SSIMAutoencoder"]

NEGATIVE_SLOPE = 0.2
"""Slope of the leaky rectified linear units."""
LATENT_DIM = 100
PATCH_STRIDE = 30
"""Distance in pixels between the patches that larger images are scored in."""
LR = 2e-4
WEIGHT_DECAY = 1e-5


class _Layer(NamedTuple):
    """A convolution of the encoder; the decoder has its transpose."""

    channels: int
    kernel: int
    stride: int
    padding: int


_HALF = _Layer(32, 4, 2, 1)
# From 128 x 128 pixels to a vector (VISAPP 2019, Table 1).
_ENCODER = (
    _HALF,
    _HALF,
    _Layer(32, 3, 1, 1),
    _Layer(64, 4, 2, 1),
    _Layer(64, 3, 1, 1),
    _Layer(128, 4, 2, 1),
    _Layer(64, 3, 1, 1),
    _Layer(32, 3, 1, 1),
    _Layer(LATENT_DIM, 8, 1, 0),
)
# For objects, "an additional convolution layer" (CVPR 2019, Section 4.1.2).
_ENCODERS = {128: _ENCODER, 256: (_HALF, *_ENCODER)}


class SSIMAutoencoder(nn.Module):
    """Score each pixel by how much its surroundings differ from their reconstruction: 1 - SSIM.

    Images are made grey. The decoder mirrors the encoder. A leaky rectified linear unit follows each layer but the last
    of either, which are linear. Images larger than ``patch_size`` are trained on in random patches, and scored in
    overlapping ones, whose maps are averaged.

    Args:
        patch_size: Side of the patches in pixels: 256 for objects, which are seen whole, or 128 for textures.

    Example:
        >>> autoencoder = SSIMAutoencoder(patch_size=128)
        >>> autoencoder(torch.rand(1, 3, 160, 128)).shape
        torch.Size([1, 1, 160, 128])
    """

    def __init__(self, patch_size: int = 256) -> None:
        super().__init__()
        self.patch_size = patch_size
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        inputs = 1
        for outputs, kernel, stride, padding in _ENCODERS[patch_size]:
            encoder += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.LeakyReLU(NEGATIVE_SLOPE)]
            transpose = nn.ConvTranspose2d(outputs, inputs, kernel, stride, padding)
            decoder = [nn.LeakyReLU(NEGATIVE_SLOPE), transpose, *decoder]
            inputs = outputs
        self.encoder = nn.Sequential(*encoder[:-1])
        self.decoder = nn.Sequential(*decoder[1:])

    def dissimilarity(self, grey: torch.Tensor) -> torch.Tensor:
        """Compute 1 - SSIM of grey patches ``(B, 1, p, p)`` in ``[0, 1]`` and their reconstruction, at each pixel."""
        reconstruction = self.decoder(self.encoder(grey))
        _, similarity = structural_similarity_index_measure(
            reconstruction, grey, data_range=1.0, return_full_image=True
        )
        return 1 - similarity

    def fit(self, read: Callable[[], Iterable[torch.Tensor]], epochs: int) -> None:
        """Train on a random patch of each image; ``read`` reads batches of images ``(B, 3, H, W)`` in ``[0, 1]``."""
        optimizer = torch.optim.Adam(self.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        crop = RandomCrop(self.patch_size)
        for _ in trange(epochs, desc="SSIM-Autoencoder", unit="epoch", leave=False):
            for images in read():
                optimizer.zero_grad()
                self.dissimilarity(torch.stack([crop(image) for image in rgb_to_grayscale(images)])).mean().backward()
                optimizer.step()

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the anomaly maps ``(B, 1, H, W)`` of images in ``[0, 1]``, not smaller than a patch."""
        grey = rgb_to_grayscale(images)
        total, count = torch.zeros_like(grey), torch.zeros_like(grey)
        for top in self._starts(grey.shape[-2]):
            for left in self._starts(grey.shape[-1]):
                patch = ..., slice(top, top + self.patch_size), slice(left, left + self.patch_size)
                total[patch] += self.dissimilarity(grey[patch])
                count[patch] += 1
        return total / count

    def _starts(self, side: int) -> list[int]:
        """First pixels of the patches along a side, the last of which ends with the image."""
        last = side - self.patch_size
        return [*range(0, last, PATCH_STRIDE), last]
