"""Random patches and triplets of natural images, drawn in batches as in Section 4 of the paper."""

from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from .images import ImageStore

__all__ = ["Crops", "PatchSampler", "cut_patches"]

ZOOM_RANGE = (4, 16)
"""Least and greatest side of a zoomed image, in patch sides."""
GRAYSCALE_PROBABILITY = 0.1
NOISE_STD = 0.1
"""Standard deviation of the Gaussian noise on positive patches, whose values without it are in [0, 1]."""
LUMINANCE_RANGE = (0.8, 1.2)
"""Factor of a positive patch's values. The paper gives none."""


class Crops(NamedTuple):
    """Where patches lie: integers, one for each patch."""

    image: np.ndarray
    """Index of the image."""
    zoom: np.ndarray
    """Side z of the square to which the image is zoomed, in pixels."""
    top: np.ndarray
    """First row of the patch in the zoomed image."""
    left: np.ndarray
    """First column of the patch in the zoomed image."""


class PatchSampler:
    """Draw batches of random patches, the same for the same seed.

    An image is zoomed to equal width and height, drawn from {4p, ..., 16p}, and a patch of p x p pixels is cropped at
    a random place. In a triplet, the positive is the same patch translated by at most (p - 1) / 4 pixels in each
    direction (and kept within the image), its luminance changed, and Gaussian noise added; the negative is a patch of a
    different image. A patch, or a whole triplet, is grey with probability 0.1.

    Each batch depends on the seed and its number alone, so that a resumed run draws what an uninterrupted one would,
    and ``world_size`` processes can draw ``batch_size`` patches each of one batch.

    Example:
        >>> images = ImageStore.from_images([torch.zeros(3, 40, 50), torch.ones(3, 60, 40)])
        >>> PatchSampler(images, patch_size=17, batch_size=8, seed=0, triplets=True).draw(number=0).shape
        torch.Size([3, 8, 3, 17, 17])
    """

    def __init__(
        self,
        images: ImageStore,
        patch_size: int,
        batch_size: int,
        seed: int,
        triplets: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if triplets and len(images) < 2:
            msg = "Triplets need at least 2 images: the negative patch comes from a different one."
            raise ValueError(msg)
        self.images = images
        self.patch_size = patch_size
        self.seed = seed
        self.triplets = triplets
        self.total = world_size * batch_size
        self.own = slice(rank * batch_size, (rank + 1) * batch_size)

    def draw(self, number: int) -> torch.Tensor:
        """Draw a batch of shape ``(1, B, 3, p, p)``, or for triplets ``(3, B, 3, p, p)``, on the device of the images.

        Triplets are anchors, positives and negatives. Values are in ``[0, 1]`` except for the positives' noise.
        """
        random = np.random.default_rng((self.seed, number))
        anchors = self._draw_crops(random.integers(len(self.images), size=self.total), random)
        grey = random.random(self.total) < GRAYSCALE_PROBABILITY
        patches = self._cut(anchors)[None]
        if self.triplets:
            positives = self._positives(anchors, random)
            others = random.integers(len(self.images) - 1, size=self.total)
            negatives = self._cut(self._draw_crops(others + (others >= anchors.image), random))
            patches = torch.stack([patches[0], positives, negatives])
        is_grey = torch.from_numpy(grey[self.own]).to(patches.device)[:, None, None, None]
        return torch.where(is_grey, transforms.rgb_to_grayscale(patches, num_output_channels=3), patches)

    def _draw_crops(self, image: np.ndarray, random: np.random.Generator) -> Crops:
        zoom = random.integers(
            ZOOM_RANGE[0] * self.patch_size, ZOOM_RANGE[1] * self.patch_size, self.total, endpoint=True
        )
        top, left = random.integers(zoom - self.patch_size, size=(2, self.total), endpoint=True)
        return Crops(image, zoom, top, left)

    def _positives(self, anchors: Crops, random: np.random.Generator) -> torch.Tensor:
        reach = (self.patch_size - 1) // 4
        shift = random.integers(-reach, reach, size=(2, self.total), endpoint=True)
        top, left = (np.stack([anchors.top, anchors.left]) + shift).clip(0, anchors.zoom - self.patch_size)
        patches = self._cut(anchors._replace(top=top, left=left))
        luminance = random.uniform(*LUMINANCE_RANGE, size=self.total)[self.own]
        factor = torch.from_numpy(luminance).to(patches)[:, None, None, None]
        generator = torch.Generator(patches.device).manual_seed(int(random.integers(2**62)))
        noise = torch.randn(
            (self.total, *patches.shape[1:]), generator=generator, dtype=patches.dtype, device=patches.device
        )
        return patches * factor + NOISE_STD * noise[self.own]

    def _cut(self, crops: Crops) -> torch.Tensor:
        return cut_patches(self.images, Crops(*(values[self.own] for values in crops)), self.patch_size)


def cut_patches(images: ImageStore, crops: Crops, patch_size: int) -> torch.Tensor:
    """Zoom images and crop a patch from each, to shape ``(B, 3, p, p)`` in ``[0, 1]``.

    Only the pixels that the patches cover are resampled, antialiased.
    """
    device = images.pixels.device
    offsets, heights, widths = (values[crops.image] for values in (images.offsets, images.heights, images.widths))
    rows, row_weights = _resampling(crops.top, crops.zoom, heights, patch_size, device)
    columns, column_weights = _resampling(crops.left, crops.zoom, widths, patch_size, device)
    first_of_rows = _on(device, offsets)[:, None] + rows * _on(device, widths)[:, None]
    regions = images.pixels[first_of_rows[:, :, None] + columns[:, None, :]].float() / 255
    return torch.einsum("byr,brcv,bxc->bvyx", row_weights, regions, column_weights).contiguous()


def _resampling(
    start: np.ndarray, zoom: np.ndarray, side: np.ndarray, patch_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the pixels that patches cover along one side, of shape (B, n), and their weights, of shape (B, p, n)."""
    scale = side / zoom
    reach = np.maximum(scale, 1)
    first_centre = (start + 0.5) * scale
    first_pixel = np.floor(first_centre - reach).astype(np.int64)
    n_pixels = int(np.ceil((patch_size - 1) * scale + 2 * reach).max()) + 1

    pixels = _on(device, first_pixel)[:, None] + torch.arange(n_pixels, device=device)
    # Relative to the first pixel, single precision is enough, which every accelerator has.
    centres, steps, reaches = (
        _on(device, values.astype(np.float32))[:, None] for values in (first_centre - first_pixel - 0.5, scale, reach)
    )
    centres = centres + torch.arange(patch_size, device=device) * steps
    distances = (torch.arange(n_pixels, device=device) - centres[:, :, None]).abs()
    last_pixel = _on(device, side - 1)[:, None]
    is_inside = (pixels >= 0) & (pixels <= last_pixel)
    weights = (1 - distances / reaches[:, :, None]).clamp_min(0) * is_inside[:, None, :]
    return pixels.clamp(min=0).minimum(last_pixel), weights / weights.sum(dim=2, keepdim=True)


def _on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).to(device)
