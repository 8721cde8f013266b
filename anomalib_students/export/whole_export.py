"""Exports that are complete or absent, though they may have several files."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

__all__ = ["export_whole"]

FULL = 2**20
"""A disk is taken for full if fewer bytes are free."""
WRITE_FAILURES = ("iostream error", "PytorchStreamWriter", "write failed", "unexpected pos")
"""Parts of the messages of OpenVINO and torch for files that could not be written."""


def export_whole(export: Callable[..., Path], *args: Any, **kwargs: Any) -> Path:
    """Export a model to a folder beside its place, and move it there when it is complete.

    An older export is kept until then. A killed process leaves it, and a hidden folder ``.export-*`` beside it.

    ``export`` writes to the folder ``export_root`` among its arguments, and returns the path of the main file in it.
    An ``OSError`` is raised if a file cannot be written.
    """
    bound = signature(export).bind(*args, **kwargs)
    root = Path(bound.arguments["export_root"])
    with _folder_beside(root) as temporary, _said_plainly(root):
        bound.arguments["export_root"] = temporary
        main = export(*bound.args, **bound.kwargs).relative_to(temporary)
        files = [path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()]
        for path in files:
            _write_through(temporary / path)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
        if len(files) > 1:
            # So that the old main file is never found with new weights.
            (root / main).unlink(missing_ok=True)
        for path in sorted(files, key=lambda path: path == main):
            (temporary / path).replace(root / path)
    return root / main


@contextmanager
def _folder_beside(root: Path) -> Iterator[Path]:
    """Make a temporary folder on the file system of ``root``."""
    folder = root / f".export-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _said_plainly(root: Path) -> Iterator[None]:
    """Raise an ``OSError`` with the reason if OpenVINO or torch fail to write a file."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in WRITE_FAILURES):
            raise
        is_full = shutil.disk_usage(root).free < FULL
        number = errno.ENOSPC if is_full else errno.EIO
        reason = f"{os.strerror(number)}, so that the model is not exported; an older export is as it was"
        raise OSError(number, reason, str(root)) from error


def _write_through(path: Path) -> None:
    """Flush a file to the disk before it is renamed, so that a power cut doesn't leave an empty one."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
