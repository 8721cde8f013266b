"""Crops of photographs that a teacher is distilled on: squares of different sizes, in varied colours."""

from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_students.image_files import read_rgb

__all__ = ["cut_crops"]

SMALLEST_CROP = 0.6
"""Side of the smallest crop, as a part of the largest square in the photograph."""
GREY_PROBABILITY = 0.2
LIGHT_PROBABILITY = 0.5
"""Probability of another contrast and brightness."""
CONTRAST = (0.6, 1.3)
BRIGHTNESS = 0.15
"""Largest change, as a part of the range of values."""
FLIP_PROBABILITY = 0.5


def cut_crops(path: Path, number: int, crops: int, side: int, seed: int) -> np.ndarray:
    """Cut crops ``(K, 3, S, S)`` of a photograph in uint8, the same for the same number and seed.

    The first is as large as the photograph allows, the others are smaller at random. Some are grey, have another
    contrast and brightness, or are flipped.
    """
    image = read_rgb(path)
    return np.stack([_cut(image, crop, side, np.random.default_rng([number, crop, seed])) for crop in range(crops)])


def _cut(image: Image.Image, crop: int, side: int, random: np.random.Generator) -> np.ndarray:
    largest = min(image.size)
    cut = max(1, int(largest * random.uniform(SMALLEST_CROP, 1))) if crop else largest
    left = int(random.integers(image.width - cut + 1))
    top = int(random.integers(image.height - cut + 1))
    resized = image.crop((left, top, left + cut, top + cut)).resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, dtype=np.float32) / 255
    if random.random() < GREY_PROBABILITY:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
    if random.random() < LIGHT_PROBABILITY:
        contrast, brightness = random.uniform(*CONTRAST), random.uniform(-BRIGHTNESS, BRIGHTNESS)
        pixels = np.clip((pixels - 0.5) * contrast + 0.5 + brightness, 0, 1)
    if random.random() < FLIP_PROBABILITY:
        pixels = pixels[:, ::-1]
    return (pixels * 255).round().astype(np.uint8).transpose(2, 0, 1)
