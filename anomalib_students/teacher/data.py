"""What teachers see of photographs: random patches and triplets (Section 4 of the paper), and large crops."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.image_files import IMAGES, list_images, read_rgb

SIDE_RANGE = (4, 16)  # Least and greatest side to which an image is resized before a patch is cropped, in patch sides.
GRAYSCALE_PROBABILITY = 0.1
NOISE_STD = 0.1  # Standard deviation of the Gaussian noise on positive patches, whose values without it are in [0, 1].
LUMINANCE_RANGE = (0.8, 1.2)  # Factor of a positive patch's values. The paper gives none.

SMALLEST_CROP = 0.6  # Side of the smallest crop, as a fraction of the largest square in the photograph.
GREY_CROP_PROBABILITY = 0.2
LIGHT_PROBABILITY = 0.5  # Probability of another contrast and brightness.
CONTRAST = (0.6, 1.3)
BRIGHTNESS = 0.15  # Largest change, as a fraction of the range of values.
FLIP_PROBABILITY = 0.5


def find_images(folder: Path) -> list[Path]:
    """List the images below a folder, see :func:`list_images`. Raises a ``FileNotFoundError`` if there are none."""
    if not (paths := list_images(folder)):
        problem = f"has no images ({', '.join(IMAGES)})" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"The image folder {folder} {problem}.")
    return paths


def _load_each(load: Callable[[int, Path], torch.Tensor], paths: Sequence[Path]) -> list[torch.Tensor]:
    """Load images by their numbers and paths, in threads: Pillow decodes outside of Python's lock."""
    with ThreadPoolExecutor() as pool:
        images = pool.map(load, range(len(paths)), paths)
        return list(track(images, description="Reading images", total=len(paths)))


def load_images(paths: Sequence[Path], side: int) -> list[torch.Tensor]:
    """Decode images to RGB ``(3, H, W)`` in uint8, and reduce their shorter side to at most ``side`` pixels."""

    def load(_: int, path: Path) -> torch.Tensor:
        image = read_rgb(path)
        scale = side / min(image.size)
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    return _load_each(load, paths)


@dataclass(frozen=True)
class ImageStore:
    """Images of different sizes in one tensor, so that one indexing reaches pixels of many of them.

    ``pixels`` has all images row by row, one after the other, of shape ``(n, 3)`` in uint8; ``offsets`` are the indices
    of their first pixels.
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


class Crops(NamedTuple):
    """Where patches lie, as an integer for each: the image, its side after resizing, first row and first column."""

    image: np.ndarray
    side: np.ndarray
    top: np.ndarray
    left: np.ndarray


class PatchSampler:
    """Draw batches of random patches, the same for the same seed.

    An image is resized to equal width and height, drawn from {4p, ..., 16p}, and a patch of p x p pixels is cropped at
    a random place. In a triplet, the positive is the same patch translated by at most (p - 1) / 4 pixels in each
    direction (and kept within the image), its luminance changed, and Gaussian noise added; the negative is a patch of a
    different image. A patch, or a whole triplet, is grey with probability 0.1.

    Each batch depends only on the seed and its number; ``world_size`` processes draw ``batch_size`` patches each of it.

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
        self.images = images
        self.patch_size = patch_size
        self.seed = seed
        self.triplets = triplets
        self.total = world_size * batch_size
        self.share = slice(rank * batch_size, (rank + 1) * batch_size)

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
        is_grey = torch.from_numpy(grey[self.share]).to(patches.device)[:, None, None, None]
        return torch.where(is_grey, transforms.rgb_to_grayscale(patches, num_output_channels=3), patches)

    def _draw_crops(self, image: np.ndarray, random: np.random.Generator) -> Crops:
        least, greatest = (factor * self.patch_size for factor in SIDE_RANGE)
        side = random.integers(least, greatest, self.total, endpoint=True)
        top, left = random.integers(side - self.patch_size, size=(2, self.total), endpoint=True)
        return Crops(image, side, top, left)

    def _positives(self, anchors: Crops, random: np.random.Generator) -> torch.Tensor:
        reach = (self.patch_size - 1) // 4
        shift = random.integers(-reach, reach, size=(2, self.total), endpoint=True)
        top, left = (np.stack([anchors.top, anchors.left]) + shift).clip(0, anchors.side - self.patch_size)
        patches = self._cut(anchors._replace(top=top, left=left))
        luminance = random.uniform(*LUMINANCE_RANGE, size=self.total)[self.share]
        factor = torch.from_numpy(luminance).to(patches)[:, None, None, None]
        generator = torch.Generator(patches.device).manual_seed(int(random.integers(2**62)))
        noise = torch.randn(
            (self.total, *patches.shape[1:]), generator=generator, dtype=patches.dtype, device=patches.device
        )
        return patches * factor + NOISE_STD * noise[self.share]

    def _cut(self, crops: Crops) -> torch.Tensor:
        return cut_patches(self.images, Crops(*(values[self.share] for values in crops)), self.patch_size)


def cut_patches(images: ImageStore, crops: Crops, patch_size: int) -> torch.Tensor:
    """Crop patches of resized images, ``(B, 3, p, p)`` in ``[0, 1]``; only their pixels are resampled, antialiased."""
    device = images.pixels.device
    offsets, heights, widths = (values[crops.image] for values in (images.offsets, images.heights, images.widths))
    rows, row_weights = _resampling(crops.top, crops.side, heights, patch_size, device)
    columns, column_weights = _resampling(crops.left, crops.side, widths, patch_size, device)
    first_of_rows = _on(device, offsets) + rows * _on(device, widths)
    regions = images.pixels[first_of_rows[:, :, None] + columns[:, None, :]].float() / 255
    return torch.einsum("byr,brcv,bxc->bvyx", row_weights, regions, column_weights).contiguous()


def _resampling(
    start: np.ndarray, resized: np.ndarray, side: np.ndarray, patch_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the pixels that patches cover along one side, of shape (B, n), and their weights, of shape (B, p, n)."""
    scale = side / resized
    reach = np.maximum(scale, 1)
    first_centre = (start + 0.5) * scale
    first_pixel = np.floor(first_centre - reach).astype(np.int64)
    n_pixels = int(np.ceil((patch_size - 1) * scale + 2 * reach).max()) + 1

    pixels = _on(device, first_pixel) + torch.arange(n_pixels, device=device)
    # Relative to the first pixel, single precision is enough, which every accelerator has.
    centres, steps, reaches = (
        _on(device, values.astype(np.float32)) for values in (first_centre - first_pixel - 0.5, scale, reach)
    )
    centres = centres + torch.arange(patch_size, device=device) * steps
    distances = (torch.arange(n_pixels, device=device) - centres[:, :, None]).abs()
    last_pixel = _on(device, side - 1)
    is_inside = (pixels >= 0) & (pixels <= last_pixel)
    weights = (1 - distances / reaches[:, :, None]).clamp_min(0) * is_inside[:, None, :]
    return pixels.clamp(min=0).minimum(last_pixel), weights / weights.sum(dim=2, keepdim=True)


def _on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    """Move a value for each patch to a device, in a column."""
    return torch.from_numpy(values).to(device)[:, None]


def load_crops(paths: Sequence[Path], crops: int, side: int, seed: int) -> torch.Tensor:
    """Cut K crops of each photograph, ``(N, K, 3, S, S)`` in uint8: the first as large as it allows, others smaller."""

    def cut(number: int, path: Path) -> torch.Tensor:
        image = read_rgb(path)
        pixels = [_crop(image, crop, side, np.random.default_rng([number, crop, seed])) for crop in range(crops)]
        return torch.from_numpy(np.stack(pixels))

    return torch.stack(_load_each(cut, paths))


def _crop(image: Image.Image, crop: int, side: int, random: np.random.Generator) -> np.ndarray:
    largest = min(image.size)
    cut = max(1, int(largest * random.uniform(SMALLEST_CROP, 1))) if crop else largest
    left = int(random.integers(image.width - cut + 1))
    top = int(random.integers(image.height - cut + 1))
    resized = image.crop((left, top, left + cut, top + cut)).resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, dtype=np.float32) / 255
    if random.random() < GREY_CROP_PROBABILITY:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
    if random.random() < LIGHT_PROBABILITY:
        contrast, brightness = random.uniform(*CONTRAST), random.uniform(-BRIGHTNESS, BRIGHTNESS)
        pixels = np.clip((pixels - 0.5) * contrast + 0.5 + brightness, 0, 1)
    if random.random() < FLIP_PROBABILITY:
        pixels = pixels[:, ::-1]
    return (pixels * 255).round().astype(np.uint8).transpose(2, 0, 1)
