"""The folder of the sample parts: unpacked once, in MVTec AD's layout, complete or absent."""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import ZipFile

import platformdirs
from PIL import Image

from anomalib_students.files import ensure_folder

ARCHIVE = Path(__file__).with_name("sample_parts.zip")
"""Pictures as JPEG and masks as PNG, which this project has rendered."""
CATEGORY = "part"
# To be raised whenever a picture changes.
VERSION = "v2"


def default_root() -> Path:
    """Folder in the user's cache (on Linux ``$XDG_CACHE_HOME`` or ``~/.cache``) that holds the sample parts."""
    return platformdirs.user_cache_path("anomalib-students") / "sample_parts"


def ensure_sample_parts(folder: Path) -> None:
    """Unpack the sample parts into the folder of their category, unless it is complete.

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
    with ZipFile(ARCHIVE) as archive:
        return [_unpacked(name) for name in archive.namelist()]


def write_sample_parts(folder: Path) -> None:
    """Unpack all pictures and masks into a new folder."""
    with ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            path = folder / _unpacked(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, archive.read(name))


def write_png(path: Path, content: bytes) -> None:
    """Write an image as PNG, the only file type that anomalib looks for in this layout."""
    Image.open(io.BytesIO(content)).save(path, compress_level=1)


def _unpacked(name: str) -> str:
    return str(Path(name).with_suffix(".png").as_posix())
