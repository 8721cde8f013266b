"""Where images come from: files, folders, patterns, standard input, videos, cameras, and folders that still grow."""

import sys
import time
from collections.abc import Iterable, Iterator
from glob import glob
from importlib import import_module
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import NamedTuple

import numpy as np

from anomalib_students.image_files import read_rgb

__all__ = ["Item", "decode", "find_items", "is_live", "watch"]

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
COMPLETE = 0.5  # Seconds for which a new file must not have changed before it is read.


class Item(NamedTuple):
    """An image: the path of its file, or its name with RGB pixels of shape ``(H, W, 3)`` and type uint8."""

    name: str
    pixels: np.ndarray | None = None


def is_live(source: str) -> bool:
    """Whether a source is a camera: a number, or the address of a stream."""
    return source.isdigit() or "://" in source


def find_items(sources: Iterable[str]) -> Iterator[Item]:
    """List the images of folders, patterns, image or video files, cameras, and paths on the standard input for ``-``.

    Hidden files are left out, and no file is read yet.

    Raises:
        FileNotFoundError: If a source does not exist, or a folder or pattern has no image.
        RuntimeError: If a video or camera is named and OpenCV is not installed.
    """
    for source in sources:
        path = Path(source)
        if source == "-":
            yield from (Item(line) for line in map(str.strip, sys.stdin) if line)
        elif is_live(source) or (path.suffix.lower() in VIDEOS and path.is_file()):
            yield from _frames(source)
        elif path.is_file():
            yield Item(source)
        else:
            found = _in_folder(path) if path.is_dir() else sorted(filter(_is_image, glob(source, recursive=True)))  # noqa: PTH207
            if not found:
                raise FileNotFoundError(f"There is no image in {source}.")
            yield from map(Item, found)


def watch(folder: str, stop: Event) -> Iterator[Item]:
    """List the images of a folder, then those that are written to it, each when its file is complete."""
    changes_in = _extra("watchfiles", "watchfiles", "--watch").watch
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to watch.")
    seen: set[str] = set()
    new = set(_in_folder(Path(folder)))
    absolute = Path(folder).absolute()
    # A pass without changes still comes, so that files that have become complete are noticed.
    for changes in changes_in(folder, stop_event=stop, yield_on_timeout=True, rust_timeout=int(1000 * COMPLETE)):
        # Their paths are absolute, whatever the folder's.
        changed = [Path(path).relative_to(absolute) for _, path in changes]
        new |= {str(Path(folder, path)) for path in changed if _is_image(path)}
        complete = {path for path in new - seen if _is_complete(Path(path))}
        yield from map(Item, sorted(complete))
        seen |= complete


def decode(item: Item) -> np.ndarray:
    """Return an image as RGB, of shape ``(H, W, 3)`` and type uint8, or raise a ``ValueError``."""
    if item.pixels is None:
        return np.asarray(read_rgb(item.name))
    pixels = np.repeat(item.pixels[..., None], 3, axis=2) if item.pixels.ndim == 2 else item.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        msg = f"an image is an array of uint8 of shape (H, W) or (H, W, 3), not {pixels.dtype} of {pixels.shape}"
        raise ValueError(msg)
    return pixels


def _in_folder(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())


def _is_image(path: str | Path) -> bool:
    is_hidden = any(name.startswith(".") and set(name) != {"."} for name in Path(path).parts)
    return Path(path).suffix.lower() in IMAGES and not is_hidden


def _is_complete(path: Path) -> bool:
    """Whether a file has content and has not changed for a while."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size > 0 and time.time() - status.st_mtime >= COMPLETE


def _frames(source: str) -> Iterator[Item]:
    capture = _extra("cv2", "opencv-python-headless", source).VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise FileNotFoundError(f"OpenCV cannot open the camera or video {source}.")
    for number, (is_there, frame) in enumerate(iter(capture.read, None)):
        if not is_there:
            return
        yield Item(f"{source}#{number}", frame[..., ::-1])


def _extra(module: str, package: str, wanted_for: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{wanted_for} needs the package {package}: pip install {package}") from error
