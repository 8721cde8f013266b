"""Image files of any kind that Pillow reads, in 8 bits; or an error that names the file."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["open_image", "read_rgb"]

SIXTEEN_BITS = 65_535
"""Largest value of a 16-bit image."""
DARK = 4095
"""Largest value of a camera with 12 bits: a 16-bit image with no larger one is nearly black."""
PER_LEVEL = 257
"""Values of a 16-bit image for each of the 255 levels of an 8-bit one above black."""


def open_image(path: str | Path) -> Image.Image:
    """Decode an image file.

    Args:
        path: Path of the file.

    Returns:
        Image as Pillow has it, the first of several in a file. Grey images of 16 bits are scaled to 8, where Pillow
        would clip them; no value but 0 becomes 0, so that masks keep what they mark.

    Raises:
        ValueError: If the file can't be read as an image, or has values of no known range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.array([[0, 1, 65535]], dtype=np.uint16)).save(f"{folder}/grey.png")
        ...     np.asarray(open_image(f"{folder}/grey.png")).tolist()
        [[0, 1, 255]]
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _in_eight_bits(image)
    except Exception as error:
        # What Pillow raises for a damaged file depends on its format.
        msg = f"Cannot read {path} as an image: {str(error) or type(error).__name__}. Repair or remove it."
        raise ValueError(msg) from error


def read_rgb(path: str | Path) -> Image.Image:
    """Decode an image file to RGB, as :func:`open_image` does; transparency is dropped."""
    return open_image(path).convert("RGB")


def check_mode(image: Image.Image) -> None:
    """Raise a ValueError if an image has floating-point values: white may be 1, 255 or anything else."""
    if image.mode == "F":
        msg = "it has floating-point values, of which it is not known which is white; convert it to 8 or 16 bits"
        raise ValueError(msg)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    check_mode(image)
    # Depending on its version, Pillow opens 16 bits as "I" or as "I;16".
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > SIXTEEN_BITS:
        msg = f"its values reach from {values.min()} to {values.max()}, more than 16 bits; convert it to 8 or 16 bits"
        raise ValueError(msg)
    if values.max() <= DARK:
        warnings.warn(
            f"16-bit images with no value above {DARK}, as of cameras with 12 bits, are read as nearly black: "
            "scale them to the full range.",
            stacklevel=3,
        )
    return Image.fromarray(np.maximum(values // PER_LEVEL, values > 0).astype(np.uint8))
