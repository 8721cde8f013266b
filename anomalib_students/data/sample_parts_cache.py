"""The folder of the sample parts: rendered once, in MVTec AD's layout, complete or not there at all."""

from __future__ import annotations

from pathlib import Path

import platformdirs
from numpy import uint8
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomalib_students.data.sample_parts_images import NUM_IMAGES, make_image
from anomalib_students.files import ensure_folder

CATEGORY = "part"
# To be raised whenever a picture changes.
VERSION = "v1"


def default_root() -> Path:
    """Folder in the user's cache (on Linux ``$XDG_CACHE_HOME`` or ``~/.cache``) that holds the sample parts."""
    return platformdirs.user_cache_path("anomalib-students") / "sample_parts"


def ensure_sample_parts(folder: Path) -> None:
    """Renders the sample parts, unless they are there.

    They are complete or not there at all, and a folder in which files are missing is replaced.

    Args:
        folder: Folder of the category.

    Raises:
        OSError: If the folder can't be written.
    """
    try:
        ensure_folder(folder, is_complete, write_sample_parts)
    except OSError as error:
        msg = f"Can't write the sample parts to {folder}: {error}. Name a folder that can be written with --data.root."
        raise OSError(msg) from error


def is_complete(folder: Path) -> bool:
    """Whether all pictures and masks are in a folder."""
    return all(path.is_file() and path.stat().st_size > 0 for path in map(folder.joinpath, file_names()))


def file_names() -> list[str]:
    """Names of all pictures and masks, relative to the category's folder."""
    names = []
    for (split, label), count in NUM_IMAGES.items():
        names += [f"{split}/{label}/{index:03d}.png" for index in range(count)]
        if label != "good":
            names += [f"ground_truth/{label}/{index:03d}_mask.png" for index in range(count)]
    return names


def write_sample_parts(folder: Path) -> None:
    """Renders all pictures and masks into a new folder."""
    pictures = [(split, label, index) for (split, label), count in NUM_IMAGES.items() for index in range(count)]
    for split, label, index in track(
        pictures,
        description="Rendering the sample parts",
        # A console of its own, because one console can't show two progress bars, and the caller may have one.
        console=Console(stderr=True),
    ):
        image, mask = make_image(split, label, index)
        _write_png(folder / split / label / f"{index:03d}.png", image)
        if mask is not None:
            _write_png(folder / "ground_truth" / label / f"{index:03d}_mask.png", mask)


def _write_png(path: Path, pixels: NDArray[uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
