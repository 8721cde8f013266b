"""Files that are written whole or not at all, and refused if they are damaged or of a newer format."""

import contextlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError

from . import __version__


def check_output(path: Path, suffix: str, what: str) -> None:
    """Make the folder of an output file, and raise an error early if ``what`` cannot be written to it."""
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"{what} is written to a file named *{suffix}, not to {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"The folder of the output cannot be written to: {path.parent}")


def replace_file(path: str | Path, content: bytes) -> None:
    """Write a file and its folder; after an ``OSError``, on a full disk for example, an older file is unchanged."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # The error of a failed write does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def ensure_folder(folder: Path, is_complete: Callable[[Path], bool], write: Callable[[Path], None]) -> None:
    """Write a folder unless it is complete, also if processes do so at the same time or are interrupted."""
    if is_complete(folder):
        return
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        write(temporary)
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    except OSError:
        # Another process may have been faster.
        if not is_complete(folder):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_format(saved: object, newest: int, what: str) -> None:
    """Raise a ``ValueError`` that names a file if it is of a newer format, or of none."""
    if saved is None:
        raise ValueError(f"{what} has no format of anomalib-students: it is of another model.")
    name = str(saved)
    if not (name.isdecimal() and 1 <= int(name) <= newest):
        msg = (
            f"{what} has format {name[:20]}, but anomalib-students {__version__} knows formats up to {newest}: install "
            "the version that wrote it, or a newer one."
        )
        raise ValueError(msg)


@contextlib.contextmanager
def naming_what_is_damaged(checkpoint: str | Path) -> Iterator[None]:
    """Raise a ``RuntimeError`` with the name of a checkpoint that is cut short: torch's errors do not name it."""
    try:
        yield
    except (EOFError, RuntimeError, UnpicklingError) as error:
        # The end of a file has the table of what is in it.
        if zipfile.is_zipfile(checkpoint):
            raise
        msg = f"The checkpoint {checkpoint} is damaged, or is none. Remove it, or start anew without resuming."
        raise RuntimeError(msg) from error
