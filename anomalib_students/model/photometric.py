"""Random light for training images, so that a drift of the light is no defect."""

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

__all__ = ["PhotometricJitter"]

GAIN = 0.15
"""Largest relative change of the contrast."""
OFFSET = 0.5
"""Largest change of the brightness, in standard deviations of ImageNet's pixels (about 0.11 of the range 0 to 1)."""
COLOUR = 0.05
"""Largest change of the brightness of a single channel, in the same unit."""
EXPOSURE = 0.25
"""Largest relative change of the exposure, which multiplies what the camera records."""
NOISE = 0.04
"""Largest standard deviation of the noise that is added to pixels, in the same unit."""
BLACK = -torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1) / torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
"""Normalised pixels without light."""
WHITE = BLACK + 1 / torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
"""Normalised pixels that are saturated."""


class PhotometricJitter:
    """Change contrast, brightness, colour and exposure of images at random, and add noise.

    Teacher and students see the same changed images, so the students learn to follow the teacher in any light. As in a
    camera, pixels saturate at white: highlights lose their shape in brighter light.

    Args:
        strength: Factor of all ranges, at least 0; 1 for changes of up to 15 % in contrast, 11 % in brightness and 25 %
            in exposure.

    Raises:
        ValueError: If ``strength`` is negative or not finite.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> PhotometricJitter(strength=1.0)(images).shape
        torch.Size([2, 3, 8, 8])
        >>> torch.equal(PhotometricJitter(strength=0.0)(images), images)
        True
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength < float("inf"):
            msg = f"light_jitter must be at least 0 and finite, got {strength}."
            raise ValueError(msg)
        self.strength = strength

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Change each image of shape ``(B, 3, H, W)`` in its own way, by random numbers of the CPU.

        The images are normalised as for ImageNet.
        """
        if self.strength == 0:
            return images
        n_images, n_channels = images.shape[:2]

        def uniform(largest: float, channels: int = 1) -> torch.Tensor:
            numbers = 2 * torch.rand(n_images, channels, 1, 1, generator=generator) - 1
            return (self.strength * largest * numbers).to(images)

        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        gain, offset, colour = 1 + uniform(GAIN), uniform(OFFSET), uniform(COLOUR, n_channels)
        noise = torch.randn(images.shape, generator=generator).to(images) * uniform(NOISE)
        exposure = 1 + uniform(EXPOSURE)
        black, white = BLACK.to(images), WHITE.to(images)
        lit = (images - mean) * gain + mean + offset + colour
        return ((lit - black) * exposure + black + noise).clamp(black, white)
