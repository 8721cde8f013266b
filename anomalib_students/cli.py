"""The command ``anomalib-students``: pretrain teachers, and look at teacher files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from anomalib_students.patch_network import ARCHITECTURES
from anomalib_students.teacher.task import pretrain
from anomalib_students.teacher.weights import BUNDLED, read_metadata, teacher_path

__all__ = ["main", "teachers"]


def teachers(file: Path | None = None) -> None:
    """Describe a teacher file, or list the teachers that come with the package.

    Args:
        file: Teacher file. By default the bundled ones.
    """
    paths = [file] if file else [teacher_path(BUNDLED, patch_size) for patch_size in sorted(ARCHITECTURES)]
    descriptions = {path: read_metadata(path) for path in paths if file or path.is_file()}
    table = Table("", *(path.name for path in descriptions))
    for name in dict.fromkeys(key for description in descriptions.values() for key in description):
        table.add_row(name, *(description.get(name, "") for description in descriptions.values()))
    Console().print(table)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments, by default the process's own.
    """
    try:
        auto_cli([pretrain, teachers], args=None if args is None else list(args), as_positional=False)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"anomalib-students: {error}")
