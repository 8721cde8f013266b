"""Images to draw patches from, decoded once and kept in memory."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from anomalib_students.image_files import read_rgb

__all__ = ["IMAGE_SUFFIXES", "ImageStore", "find_images", "load_images"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageStore:
    """Images of different sizes in one tensor, so that one indexing reaches pixels of many of them.

    ``pixels`` has all images row by row, one after the other, of shape ``(n, 3)`` in uint8; ``offsets`` are the indices
    of their first pixels.

    Example:
        >>> store = ImageStore.from_images([torch.zeros(3, 4, 5), torch.ones(3, 2, 2)])
        >>> len(store), store.pixels.shape
        (2, torch.Size([24, 3]))
    """

    pixels: torch.Tensor
    offsets: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    @classmethod
    def from_images(cls, images: Sequence[torch.Tensor]) -> "ImageStore":
        """Pack images of shape ``(3, H, W)``."""
        heights, widths = np.array([image.shape[-2:] for image in images]).T
        offsets = np.cumsum([0, *(heights * widths)])[:-1]
        return cls(torch.cat([image.permute(1, 2, 0).reshape(-1, 3) for image in images]), offsets, heights, widths)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.offsets)

    def to(self, device: torch.device) -> "ImageStore":
        """Return the same images with their pixels on a device."""
        return replace(self, pixels=self.pixels.to(device))


def find_images(folder: Path) -> list[Path]:
    """List the images below a folder, sorted by their paths. Raises a ``FileNotFoundError`` if there are none."""
    if not folder.is_dir():
        msg = f"The image folder does not exist: {folder}"
        raise FileNotFoundError(msg)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        msg = f"The folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
        raise FileNotFoundError(msg)
    return paths


def load_images(paths: Sequence[Path], side: int) -> list[torch.Tensor]:
    """Decode images to RGB ``(3, H, W)`` in uint8, and reduce their shorter side to at most ``side`` pixels."""
    # Pillow decodes outside of Python's lock.
    with ThreadPoolExecutor() as pool:
        images = pool.map(partial(_load_image, side=side), paths)
        return list(track(images, description="Reading images", total=len(paths)))


def _load_image(path: Path, side: int) -> torch.Tensor:
    image = read_rgb(path)
    scale = side / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
