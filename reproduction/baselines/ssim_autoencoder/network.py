"""The convolutional autoencoder of Bergmann et al. (VISAPP 2019, Table 1)."""

from typing import NamedTuple

import torch
from torch import nn

__all__ = ["PATCH_SIZES", "ConvolutionalAutoencoder"]

NEGATIVE_SLOPE = 0.2
"""Slope of the leaky rectified linear units."""


class _Layer(NamedTuple):
    """A convolution of the encoder; the decoder has its transpose."""

    channels: int
    kernel: int
    stride: int
    padding: int


_HALF = _Layer(32, 4, 2, 1)
# From 128 x 128 pixels to 8 x 8.
_ENCODER = (
    _HALF,
    _HALF,
    _Layer(32, 3, 1, 1),
    _Layer(64, 4, 2, 1),
    _Layer(64, 3, 1, 1),
    _Layer(128, 4, 2, 1),
    _Layer(64, 3, 1, 1),
    _Layer(32, 3, 1, 1),
)
_ENCODERS = {
    128: _ENCODER,
    # For objects, "an additional convolution layer" (Bergmann et al., CVPR 2019, Section 4.1.2).
    256: (_HALF, *_ENCODER),
}
PATCH_SIZES = tuple(_ENCODERS)
"""Sides in pixels of the images that there is an architecture for."""


class ConvolutionalAutoencoder(nn.Module):
    """Encode grey images of 128 or 256 pixels a side as vectors, and decode them again.

    The decoder mirrors the encoder. A leaky rectified linear unit follows each layer but the last of either, which are
    linear.

    Example:
        >>> autoencoder = ConvolutionalAutoencoder(patch_size=128, latent_dim=100)
        >>> autoencoder.encoder(torch.rand(2, 1, 128, 128)).shape
        torch.Size([2, 100, 1, 1])
        >>> autoencoder(torch.rand(2, 1, 128, 128)).shape
        torch.Size([2, 1, 128, 128])
    """

    def __init__(self, patch_size: int = 256, latent_dim: int = 100) -> None:
        super().__init__()
        if patch_size not in _ENCODERS:
            msg = f"patch_size must be one of {PATCH_SIZES}, got {patch_size}."
            raise ValueError(msg)
        if latent_dim < 1:
            msg = f"latent_dim must be at least 1, got {latent_dim}."
            raise ValueError(msg)
        layers = (*_ENCODERS[patch_size], _Layer(latent_dim, 8, 1, 0))
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        inputs = 1
        for layer in layers:
            outputs, kernel, stride, padding = layer
            encoder += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.LeakyReLU(NEGATIVE_SLOPE)]
            transpose = nn.ConvTranspose2d(outputs, inputs, kernel, stride, padding)
            decoder = [nn.LeakyReLU(NEGATIVE_SLOPE), transpose, *decoder]
            inputs = outputs
        self.encoder = nn.Sequential(*encoder[:-1])
        self.decoder = nn.Sequential(*decoder[1:])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct grey images ``(B, 1, p, p)`` in ``[0, 1]``; the values may exceed the range."""
        return self.decoder(self.encoder(images))
