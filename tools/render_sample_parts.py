"""Render the sample parts and pack them as they come with the package: pictures as JPEG, masks as PNG.

    python tools/render_sample_parts.py

A picture that changes makes a new version of the data set: see ``VERSION`` in
anomalib_students/data/sample_parts_cache.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from numpy import uint8
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from sample_parts_images import NUM_IMAGES, make_image

ARCHIVE = Path(__file__).parents[1] / "anomalib_students" / "data" / "sample_parts.zip"
QUALITY = 95
"""Of JPEG. The errors of compression are smaller than the sensor's noise."""


def pack(path: Path) -> None:
    """Render all pictures and masks into an archive, which is the same to the byte each time.

    Args:
        path: File of the archive.
    """
    with ZipFile(path, "w") as archive:
        for name, content in _files():
            # Without the time of writing. JPEG and PNG are compressed already.
            archive.writestr(ZipInfo(name), content)


def _files() -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, in MVTec AD's layout."""
    pictures = [(split, label, index) for (split, label), count in NUM_IMAGES.items() for index in range(count)]
    for split, label, index in track(pictures, "Rendering the sample parts"):
        image, mask = make_image(split, label, index)
        yield f"{split}/{label}/{index:03d}.jpg", _encode(image, "JPEG", quality=QUALITY)
        if mask is not None:
            yield f"ground_truth/{label}/{index:03d}_mask.png", _encode(mask, "PNG")


def _encode(pixels: NDArray[uint8], file_format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, file_format, **options)
    return content.getvalue()


if __name__ == "__main__":
    pack(ARCHIVE)
