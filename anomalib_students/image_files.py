"""Image files of any kind that Pillow reads, in 8 bits and upright. Errors name the file."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

IMAGES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""Endings of image files, in lower case."""
NO_DATA = ("__macosx", "results")
"""Folders that are skipped, as hidden ones are. The heat maps that anomalib writes into the latter are no data."""
SIXTEEN_BITS = 65_535
DARK = 4095  # Largest value of a camera with 12 bits: a 16-bit image with no larger one is nearly black.
PER_LEVEL = 257  # Values of a 16-bit image for each of the 255 levels of an 8-bit one above black.
TAIL = 4096  # Bytes at the end of a JPEG file that are searched for its end marker.
# EXIF orientations of images that are stored turned or mirrored, and of those that swap width and height.
TURNED, ON_THEIR_SIDE = range(2, 9), range(5, 9)


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
        width, height: Size in pixels, as viewers show the image.
        is_clipped: Whether anomalib's own data sets read it as white: it is grey with more than 8 bits.
        is_turned: Whether anomalib's own data sets read it turned or mirrored: its EXIF orientation is not 1.
    """

    width: int
    height: int
    is_clipped: bool
    is_turned: bool


def list_images(root: Path) -> list[Path]:
    """List the image files in a folder and all folders below it, but no hidden ones, sorted by their paths."""
    found, seen = list[Path](), set()
    for folder, folders, names in os.walk(root, followlinks=True):
        # Links can lead in a circle.
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name.lower() not in NO_DATA]
        found += [Path(folder, name) for name in names if name.lower().endswith(IMAGES) and name[0] != "."]
    return sorted(found)


def open_image(path: str | Path) -> Image.Image:
    """Decode an image file, the first image of several, and turn it as its EXIF orientation says.

    Grey images of 16 bits are scaled to 8, where Pillow would clip them. Only 0 becomes 0, as masks need it.

    Raises:
        ValueError: If the file can't be read as an image, or has values of no known range.
    """
    # By a file object: of paths, Pillow 13 reads uncompressed TIFF that is to be turned in the wrong shape.
    with _naming(path), Path(path).open("rb") as file, Image.open(file) as image:
        image.load()
        upright = ImageOps.exif_transpose(image) if _orientation(image) in TURNED else image
        return _in_eight_bits(upright)


def read_rgb(path: str | Path) -> Image.Image:
    """Decode an image file to RGB, as :func:`open_image`; anomalib's inferencers would read 16 bits as white."""
    return open_image(path).convert("RGB")


def check_image(path: str | Path) -> ImageHeader:
    """Check that an image file is whole, decoding it only if its format has no mark of that, and return its header."""
    with _naming(path), Image.open(path) as image:
        _check_mode(image)
        size, is_clipped = image.size, image.mode.startswith("I")
        # Images are not decoded for an orientation that would follow the pixels.
        orientation = _orientation(image) if "exif" in image.info else 1
        if image.format == "PNG":
            image.verify()
        elif image.format != "JPEG" or not _ends_as_jpeg(Path(path)):
            image.load()
            _in_eight_bits(image)
        width, height = reversed(size) if orientation in ON_THEIR_SIDE else size
        return ImageHeader(width, height, is_clipped, orientation in TURNED)


def allow_pixels(n_pixels: int | None) -> None:
    """Set the number of pixels, a positive one, beyond which Pillow suspects an attack; None for its default."""
    if n_pixels is not None and n_pixels < 1:
        raise ValueError(f"max_pixels must be a positive number of pixels, got {n_pixels}.")
    if n_pixels is not None and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, n_pixels)


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in all errors; Pillow's errors for damaged files depend on the format."""
    try:
        yield
    except Image.DecompressionBombError as error:
        has, allowed = re.findall(r"\d+", str(error))[:2]
        msg = (
            f"Cannot read {path} as an image: it has {has} pixels, and images of more than {allowed} may be an "
            f"attack. If it comes from your camera, use --data Parts with --data.max_pixels {has}."
        )
        raise ValueError(msg) from error
    except Exception as error:
        msg = f"Cannot read {path} as an image: {str(error) or type(error).__name__}. Repair or remove it."
        raise ValueError(msg) from error


def _ends_as_jpeg(path: Path) -> bool:
    """Whether a file ends with JPEG's end marker, perhaps followed by zeros."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().rstrip(b"\0").endswith(b"\xff\xd9")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is none that can be read, or Pillow itself obeys it."""
    if image.format == "TIFF":
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001
        return 1


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("it has floating-point values, and no one knows which is white; convert it to 8 or 16 bits")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    _check_mode(image)
    # Depending on its version, Pillow opens 16 bits as "I" or as "I;16".
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > SIXTEEN_BITS:
        raise ValueError(f"its values, {values.min()} to {values.max()}, take more than 16 bits; convert it to 8 or 16")
    if values.max() <= DARK:
        warnings.warn(
            f"16-bit images with no value above {DARK}, as of cameras with 12 bits, are read as nearly black: "
            "scale them to the full range.",
            stacklevel=3,
        )
    return Image.fromarray(np.maximum(values // PER_LEVEL, values > 0).astype(np.uint8))
