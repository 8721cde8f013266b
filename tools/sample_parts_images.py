"""The pictures of the sample parts: which there are, and each of them from nothing but its name."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sample_parts_defects import DEFECTS
from sample_parts_rendering import add_noise, render
from sample_parts_surface import Array, build_surface, draw_scene
from scipy import ndimage

SEED = 1911
NUM_IMAGES: dict[tuple[str, str], int] = {
    ("train", "good"): 60,
    ("test", "good"): 20,
    **{("test", defect): 8 for defect in DEFECTS},
}
# A grey value has changed if it's off by more than the sensor's noise, whose deviation is about two of 255 levels.
MASK_THRESHOLD = 2.0 / 255.0


class PartImage(NamedTuple):
    """A picture of a part.

    Attributes:
        image: RGB picture ``(256, 256, 3)``.
        mask: 255 where the part is defective, else 0, ``(256, 256)``; None for a good part.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None


def make_image(split: str, label: str, index: int) -> PartImage:
    """Renders one picture; the same arguments give the same picture, whatever was rendered before.

    Args:
        split: "train" or "test".
        label: "good" or the name of a defect.
        index: Number of the picture, below ``NUM_IMAGES[split, label]``.

    Returns:
        The picture and, for a defective part, its mask.
    """
    # Python's own hash of a string differs from process to process.
    seeds = np.random.SeedSequence((SEED, zlib.crc32(f"{split}/{label}".encode()), index)).spawn(3)
    scene_rng, defect_rng, noise_rng = map(np.random.default_rng, seeds)
    scene = draw_scene(scene_rng)
    good_surface = build_surface(scene)
    good = render(good_surface, scene)
    if label == "good":
        return PartImage(add_noise(good, noise_rng), None)
    damaged_surface = DEFECTS[label](good_surface, scene, defect_rng, severity(index, NUM_IMAGES[split, label]))
    damaged = render(damaged_surface, scene)
    return PartImage(add_noise(damaged, noise_rng), changed_pixels(good, damaged))


def severity(index: int, count: int) -> float:
    """Severity of a defect in [0, 1]: evenly spaced over a defect's pictures, and in no order.

    Example:
        >>> [round(7 * severity(index, 8)) for index in range(8)]
        [5, 0, 3, 6, 1, 4, 7, 2]
    """
    return ((5 + 3 * index) % count) / (count - 1)


def changed_pixels(good: Array, damaged: Array) -> NDArray[np.uint8]:
    """Mask of the pixels that a defect changed.

    Args:
        good: Noiseless picture of the part without the defect, ``(H, W, 3)`` in [0, 1].
        damaged: The same with the defect.

    Returns:
        255 where a colour differs by more than ``MASK_THRESHOLD``, and in the gaps of a pixel or two between such
        places, where the change passes through zero; else 0. ``(H, W)``.
    """
    changed = np.abs(damaged - good).max(axis=-1) > MASK_THRESHOLD
    # Padding: a closing would otherwise take away what touches the image's border.
    closed = ndimage.binary_closing(np.pad(changed, 1), structure=np.ones((3, 3)))[1:-1, 1:-1]
    return np.where(closed | changed, 255, 0).astype(np.uint8)
