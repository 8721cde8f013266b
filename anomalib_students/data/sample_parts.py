"""An inspection task that needs no download: machined parts that come with the package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import platformdirs
from PIL import Image

from anomalib_students.files import ensure_folder

from .mvtec import MVTec

ARCHIVE = Path(__file__).with_name("sample_parts.zip")  # Images as JPEG and masks as PNG.
CATEGORY = "part"
# To be raised whenever an image changes, so that caches do not keep the old one.
VERSION = "v2"


class SampleParts(MVTec):
    """Turned steel flanges under uneven light, with five types of defects and their exact masks.

    60 good images to train on, 20 good and 40 defective ones to test on (dents, faulty holes, fibres, scratches and
    stains, from hardly visible to obvious), RGB of 256x256 pixels. They are unpacked when they are first needed.

    Args:
        root: Folder to keep the images in; None for the user's cache folder.
        num_workers: Processes that load images; 0 for none but the main process, which is enough here.
        kwargs: Other arguments of :class:`~anomalib_students.data.parts.Parts`.
    """

    def __init__(self, root: Path | str | None = None, num_workers: int = 0, **kwargs: Any) -> None:
        root = root or platformdirs.user_cache_path("anomalib-students") / "sample_parts"
        super().__init__(root=Path(root) / VERSION, category=CATEGORY, num_workers=num_workers, **kwargs)

    def prepare_data(self) -> None:
        """Unpack the images, unless they are there; raise an ``OSError`` if the folder can't be written."""
        try:
            ensure_folder(self.folder, is_complete, write_sample_parts)
        except OSError as error:
            raise OSError(f"Can't write sample parts to {self.folder}: {error}. Set another --data.root.") from error

    def _setup(self, _stage: str | None = None) -> None:
        # Lightning calls prepare_data in one of several processes; who calls setup directly, in none.
        self.prepare_data()
        super()._setup(_stage)


def is_complete(folder: Path) -> bool:
    """Whether all images and masks are in a folder."""
    with ZipFile(ARCHIVE) as archive:
        paths = [_unpacked(folder, name) for name in archive.namelist()]
    return all(path.is_file() and path.stat().st_size > 0 for path in paths)


def write_sample_parts(folder: Path) -> None:
    """Unpack all images and masks as PNG, the only file type that anomalib's MVTecAD looks for, into a new folder."""
    with ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            path = _unpacked(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(archive.read(name))).save(path, compress_level=1)


def _unpacked(folder: Path, name: str) -> Path:
    return (folder / name).with_suffix(".png")
