"""Random patches of natural images, drawn as in Section 4 of the paper."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as transforms

__all__ = ["IMAGE_SUFFIXES", "PatchStream", "draw_patch", "find_images", "load_images"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
ZOOM_RANGE = (4, 16)
"""Least and greatest side of a zoomed image, in patch sides."""
GRAYSCALE_PROBABILITY = 0.1
STORED_SIDE = 256
"""Images are kept with their shorter side at most this many pixels long."""


def find_images(folder: Path) -> list[Path]:
    """List the images below a folder in a stable order.

    Args:
        folder: Folder, searched recursively.

    Returns:
        Paths of all files with the suffix of an image, sorted.

    Raises:
        FileNotFoundError: If the folder does not exist or has no images.
    """
    if not folder.is_dir():
        msg = f"The image folder does not exist: {folder}"
        raise FileNotFoundError(msg)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        msg = f"The folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
        raise FileNotFoundError(msg)
    return paths


def load_images(paths: Sequence[Path]) -> list[torch.Tensor]:
    """Decode images once and keep them in memory.

    Args:
        paths: Paths of images in any mode that Pillow reads.

    Returns:
        RGB images of shape ``(3, H, W)`` in uint8, their shorter side at most :data:`STORED_SIDE` pixels.

    Raises:
        ValueError: If a file cannot be read as an image.
    """
    return [_load_image(path) for path in track(paths, description="Reading images")]


def draw_patch(image: torch.Tensor, patch_size: int, random: np.random.Generator) -> torch.Tensor:
    """Crop a random patch from an image zoomed to a random square.

    The image is zoomed to equal width and height z, drawn from {4p, ..., 16p}, and a patch of p x p pixels is cropped
    at a random place. Both happen in one antialiased resampling of the region that the patch covers.

    Args:
        image: Image of shape ``(3, H, W)`` in uint8.
        patch_size: Side p of the patch in pixels.
        random: Source of random numbers.

    Returns:
        Patch of shape ``(3, p, p)`` in uint8; grey with probability 0.1.
    """
    height, width = image.shape[-2:]
    zoomed = random.integers(ZOOM_RANGE[0] * patch_size, ZOOM_RANGE[1] * patch_size, endpoint=True)
    crop_height = max(1, round(height * patch_size / zoomed))
    crop_width = max(1, round(width * patch_size / zoomed))
    top = int(random.integers(height - crop_height, endpoint=True))
    left = int(random.integers(width - crop_width, endpoint=True))
    patch = transforms.resized_crop(image, top, left, crop_height, crop_width, [patch_size, patch_size], antialias=True)
    if random.random() < GRAYSCALE_PROBABILITY:
        patch = transforms.rgb_to_grayscale(patch, num_output_channels=3)
    return patch


class PatchStream(IterableDataset):
    """An endless stream of batches of random patches, the same for the same seed.

    Each batch depends on the seed and its number alone, so that a resumed run draws what an uninterrupted one would.

    Args:
        images: Images of shape ``(3, H, W)`` in uint8.
        patch_size: Side p of the patches in pixels.
        batch_size: Patches in a batch.
        seed: Seed of the stream.
        first_batch: Number of the first batch to draw.
    """

    def __init__(
        self,
        images: Sequence[torch.Tensor],
        patch_size: int,
        batch_size: int,
        seed: int,
        first_batch: int = 0,
    ) -> None:
        self.images = images
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.seed = seed
        self.first_batch = first_batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Draw batches of shape ``(B, 3, p, p)`` in uint8."""
        number = self.first_batch
        while True:
            yield self.draw_batch(number)
            number += 1

    def draw_batch(self, number: int) -> torch.Tensor:
        """Draw one batch.

        Args:
            number: Number of the batch in the stream.

        Returns:
            Patches of shape ``(B, 3, p, p)`` in uint8.
        """
        random = np.random.default_rng((self.seed, number))
        chosen = random.integers(len(self.images), size=self.batch_size)
        return torch.stack([draw_patch(self.images[index], self.patch_size, random) for index in chosen])


def _load_image(path: Path) -> torch.Tensor:
    try:
        image: Image.Image = Image.open(path)
        if image.mode.startswith("I"):
            # Pillow would clip 16 bits to 8.
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        image = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        msg = f"Cannot read {path} as an image: {error}. Repair or remove it."
        raise ValueError(msg) from error
    scale = STORED_SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return transforms.pil_to_tensor(image)
