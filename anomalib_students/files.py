"""Files that are written whole or not at all."""

import contextlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError

__all__ = ["check_output", "ensure_folder", "naming_what_is_damaged", "replace_file"]


def check_output(path: Path, suffix: str, what: str) -> None:
    """Refuse a path where no file can be written, before the work that makes its content; and make its folder.

    Args:
        path: Path of the file.
        suffix: What its name must end in, say ``".png"``.
        what: What is to be written, for the error: ``"A figure"``.

    Raises:
        OSError: If the folder cannot be made or written to.
        ValueError: If the path is that of a folder, or of a file of another kind.
    """
    if path.suffix != suffix or path.is_dir():
        msg = f"{what} is written to a file named *{suffix}, not to {path}."
        raise ValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        msg = f"The folder of the output cannot be written to: {path.parent}"
        raise PermissionError(msg)


def replace_file(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it.

    Args:
        path: Path of the file. An older file of that name is replaced; its folder is made.
        content: What to write.

    Raises:
        OSError: If the file cannot be written, on a full disk for example. An older file is then left as it was.
    """
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
        # A failed write does not say which file it was.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def ensure_folder(folder: Path, is_complete: Callable[[Path], bool], write: Callable[[Path], None]) -> None:
    """Write a folder, unless it is there.

    It is written beside its place, and renamed when it is complete: whoever is interrupted leaves nothing that looks
    complete, and of two processes at once the slower one takes the other's. A folder that is not complete is replaced.

    Args:
        folder: The folder.
        is_complete: Whether all is in a folder, which may not exist.
        write: Writes a new folder, and makes the folders around it.

    Raises:
        OSError: If the folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        if not is_complete(folder):
            write(temporary)
            _move_into_place(temporary, folder, is_complete)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, final: Path, is_complete: Callable[[Path], bool]) -> None:
    """Rename a complete folder to its final name, unless there is a complete one by now."""
    damaged = final.with_name(f"{temporary.name}-damaged")
    if final.exists() and not is_complete(final):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            final.rename(damaged)
    try:
        temporary.rename(final)
    except OSError:
        if not is_complete(final):
            raise
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


@contextlib.contextmanager
def naming_what_is_damaged(checkpoint: str | Path) -> Iterator[None]:
    """Name a checkpoint that turns out to be cut short when it is read: torch's errors do not.

    Args:
        checkpoint: Path of the file.

    Yields:
        Nothing.

    Raises:
        RuntimeError: If the file is damaged. Other errors are raised as they are.
    """
    try:
        yield
    except (EOFError, RuntimeError, UnpicklingError) as error:
        # The end of a file has the table of what is in it.
        if zipfile.is_zipfile(checkpoint):
            raise
        msg = f"The checkpoint {checkpoint} is damaged, or is none. Remove it, or start anew without resuming."
        raise RuntimeError(msg) from error
