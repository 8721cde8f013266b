"""Small files in the storage of a grid, which may be a shared folder or a cloud bucket."""

import contextlib
import json
from typing import Any
from uuid import uuid4

from pyarrow.fs import FileSystem, FileType

from anomalib_students.runs.settings_check import check_unchanged

__all__ = ["RESULTS", "check_settings", "exists", "read_json", "write_bytes", "write_json"]

SETTINGS = "settings.json"

RESULTS = "results.json"
"""File in the folder of a category that is finished: its name, and rows of metrics."""


def exists(file_system: FileSystem, path: str) -> bool:
    """Tell whether there is a file.

    Args:
        file_system: File system.
        path: Path in it.

    Returns:
        Whether there is a file of that path.
    """
    return file_system.get_file_info(path).type == FileType.File


def read_json(file_system: FileSystem, path: str) -> Any:  # noqa: ANN401
    """Read a JSON file.

    Args:
        file_system: File system.
        path: Path in it.

    Returns:
        Its content.
    """
    with file_system.open_input_stream(path) as stream:
        return json.loads(stream.read())


def write_bytes(file_system: FileSystem, path: str, content: bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        file_system: File system.
        path: Path in it; its folder is made.
        content: What to write.

    Raises:
        OSError: If the file cannot be written, on a full disk for example. An older file is then left as it was.
    """
    file_system.create_dir(path.rpartition("/")[0])
    # Several processes may write the same file.
    partial = f"{path}.{uuid4().hex}.partial"
    try:
        with file_system.open_output_stream(partial) as stream:
            stream.write(content)
        file_system.move(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            file_system.delete_file(partial)
        # Not all file systems say which file it was.
        msg = f"{path} cannot be written: {error}"
        raise OSError(error.errno, msg) from error


def write_json(file_system: FileSystem, path: str, content: Any) -> None:  # noqa: ANN401
    """Write a JSON file, whole or not at all.

    Args:
        file_system: File system.
        path: Path in it; its folder is made.
        content: What to write; paths are written as text.
    """
    write_bytes(file_system, path, json.dumps(content, indent=2, default=str).encode())


def check_settings(file_system: FileSystem, folder: str, settings: dict[str, Any], resume: bool) -> None:
    """Tell a job that goes on from one that begins, and keep its settings for the former.

    Args:
        file_system: File system.
        folder: Folder of the job in it.
        settings: All that decides on the job's results, as JSON and paths.
        resume: Whether the job is to go on.

    Raises:
        FileExistsError: If there is a job in the folder, and it is not to go on.
        ValueError: If it had other settings.
    """
    path = f"{folder}/{SETTINGS}"
    if not exists(file_system, path):
        write_json(file_system, path, settings)
        return
    if not resume:
        msg = f"There is a job in {folder} already: resume it, or choose another name."
        raise FileExistsError(msg)
    check_unchanged(read_json(file_system, path), settings)
