"""Files in a folder that the processes of a job share, or in a cloud bucket, each written whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from anomalib_students.files import replace_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["Storage", "begin"]

SETTINGS = "settings.json"
FORMAT = 2
"""Version of the layout of a job's folder, stored with its settings."""
READERS = 16
"""Files that are read at once, since each takes a while from a bucket."""


@dataclass(frozen=True)
class Storage:
    """A folder that all processes of a job reach: an absolute path, or a URI such as ``s3://bucket/results``."""

    location: str

    @property
    def folder(self) -> Path:
        """Path of the folder, for files that only a disk can hold."""
        return Path(self.location)

    @cached_property
    def _bucket(self) -> tuple[FileSystem, str] | None:
        """File system and path in it; None for a folder on a disk, for which pyarrow need not be installed."""
        if "://" not in self.location:
            return None
        from pyarrow.fs import FileSystem

        return FileSystem.from_uri(self.location)

    def file_system(self) -> tuple[FileSystem, str]:
        """File system of pyarrow's, and the path of the folder in it."""
        from pyarrow.fs import LocalFileSystem

        return self._bucket or (LocalFileSystem(), self.location)

    def read_json(self, name: str) -> Any:  # noqa: ANN401
        """Read a JSON file; None if it does not exist."""
        try:
            if self._bucket is None:
                return json.loads((self.folder / name).read_bytes())
            file_system, root = self._bucket
            with file_system.open_input_stream(f"{root}/{name}") as stream:
                return json.loads(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_json_files(self, names: Sequence[str]) -> list[Any]:
        """Read JSON files in parallel, in the given order; None for those that do not exist."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.read_json, names))

    def write(self, name: str, content: bytes) -> None:
        """Write a file and make its folder. If an OSError is raised, an older file is left unchanged."""
        if self._bucket is None:
            replace_file(self.folder / name, content)
            return
        file_system, root = self._bucket
        path = f"{root}/{name}"
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

    def write_json(self, name: str, content: Any) -> None:  # noqa: ANN401
        """Write a JSON file; paths are written as text."""
        self.write(name, json.dumps(content, indent=2, default=str).encode())

    def names(self, name: str) -> list[str]:
        """List the files of a name in the folder and its subfolders, sorted."""
        if self._bucket is None:
            return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob(name))
        from pyarrow.fs import FileSelector

        file_system, root = self._bucket
        entries = file_system.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
        return sorted(entry.path.removeprefix(f"{root}/") for entry in entries if entry.base_name == name)


def begin(storage: Storage, settings: Mapping[str, Any], resume: bool) -> None:
    """Store the settings of a new job, or check those of a job to be resumed.

    Raises:
        FileExistsError: If there is a job in the folder, and ``resume`` is false.
        ValueError: If it had other settings, or was begun by a version of this package that stored results differently.
    """
    before = storage.read_json(SETTINGS)
    if before is None:
        storage.write_json(SETTINGS, {"format": FORMAT, **settings})
        return
    if not resume:
        msg = f"There is a job in {storage.location} already: resume it with --resume true, or choose another name."
        raise FileExistsError(msg)
    if before.get("format") != FORMAT:
        msg = (
            f"The job in {storage.location} was begun by another version of anomalib-students, and can't be resumed: "
            f"choose another name."
        )
        raise ValueError(msg)
    now = json.loads(json.dumps(settings, default=str))
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        had = ", ".join(f"{name}={before.get(name)}" for name in changed)
        msg = f"The job to be resumed had other settings: {had}. Resume it with these, or choose another name."
        raise ValueError(msg)
