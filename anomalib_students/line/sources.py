"""Where images come from: files, folders, patterns, standard input, videos, cameras, and folders that still grow."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from glob import glob
from pathlib import Path
from threading import Event
from typing import NamedTuple

import cv2
import numpy as np

from anomalib_students.image_files import IMAGES, read_rgb

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
    """List the images of folders, patterns, image or video files, cameras, or paths on standard input for ``-``."""
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
    import watchfiles

    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to watch.")
    seen, new, absolute = set[str](), set(_in_folder(Path(folder))), Path(folder).absolute()
    # A pass without changes still comes, so that files that have become complete are noticed.
    for changes in watchfiles.watch(folder, stop_event=stop, yield_on_timeout=True, rust_timeout=int(1000 * COMPLETE)):
        # Their paths are absolute, whatever the folder's.
        new |= {str(Path(folder, path)) for _, each in changes if _is_image(path := Path(each).relative_to(absolute))}
        complete = sorted(filter(_is_complete, new - seen))
        yield from map(Item, complete)
        seen.update(complete)


def decode(item: Item) -> np.ndarray:
    """Return an image as RGB, of shape ``(H, W, 3)`` and type uint8, or raise a ``ValueError``."""
    if item.pixels is None:
        return np.asarray(read_rgb(item.name))
    pixels = np.repeat(item.pixels[..., None], 3, axis=2) if item.pixels.ndim == 2 else item.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"an image has type uint8 and shape (H, W) or (H, W, 3), not {pixels.dtype}, {pixels.shape}")
    return pixels


def _in_folder(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())


def _is_image(path: str | Path) -> bool:
    is_hidden = any(name.startswith(".") and set(name) != {"."} for name in Path(path).parts)
    return Path(path).suffix.lower() in IMAGES and not is_hidden


def _is_complete(path: str) -> bool:
    with suppress(OSError):
        status = Path(path).stat()
        return status.st_size > 0 and time.time() - status.st_mtime >= COMPLETE
    return False


def _frames(source: str) -> Iterator[Item]:
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise FileNotFoundError(f"OpenCV cannot open the camera or video {source}.")
    for number, (_, frame) in enumerate(iter(capture.read, (False, None))):
        yield Item(f"{source}#{number}", frame[..., ::-1])
