"""Files in a folder that all nodes share, or in a cloud bucket, each written whole or not at all."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyarrow.fs import FileSystem

RESULT = "result.json"  # File in the folder of a job that is done, which is not run again.
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Storage:
    """A folder: an absolute path, or a URI such as ``s3://bucket/results``."""

    location: str

    @property
    def folder(self) -> Path:
        """Path of the folder, for what only a disk can hold; raise a ValueError if it is a URI."""
        if "://" in self.location:
            raise ValueError(f"The storage path must be a folder that all nodes share, not {self.location}.")
        return Path(self.location)

    def file_system(self) -> tuple[FileSystem, str]:
        """File system of pyarrow's, and the path of the folder in it."""
        return FileSystem.from_uri(self.location)

    def read_json(self, name: str) -> Any:  # noqa: ANN401
        """Read a JSON file; None if it does not exist."""
        file_system, root = self.file_system()
        try:
            with file_system.open_input_file(f"{root}/{name}") as file:
                return json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file; paths are written as text."""
        self.write(name, json.dumps(content, indent=2, default=str).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a file and make its folder. If an OSError is raised, an older file is left unchanged."""
        file_system, root = self.file_system()
        path = f"{root}/{name}"
        # Several processes may write the same file.
        partial = f"{path}.{uuid4().hex}.partial"
        try:
            file_system.create_dir(path.rpartition("/")[0])
            with file_system.open_output_stream(partial) as file:
                file.write(content)
            file_system.move(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                file_system.delete_file(partial)
            # Not all file systems say which file it was.
            msg = f"{path} cannot be written: {error}"
            raise OSError(error.errno, msg) from error

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of a new job; raise a ValueError if the folder has a job of other settings."""
        before, now = self.read_json(SETTINGS) or {}, json.loads(json.dumps(settings, default=str))
        changed = [f"{name}={before.get(name)}" for name in now if before and before.get(name) != now[name]]
        if changed:
            raise ValueError(f"The job in {self.location} has {', '.join(changed)}: resume with that, or name another.")
        self.write_json(SETTINGS, now)
