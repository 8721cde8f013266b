"""The command ``anomalib-students``: pretrain teachers, report; ``inspect``, ``check``, ``adjust`` models at work."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, auto_cli, set_parsing_settings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_students.user_errors import one_line


def teachers(file: Path | None = None) -> None:
    """Describe a teacher file, or list the teachers that come with the package.

    Args:
        file: Teacher file. By default the bundled ones.
    """
    from anomalib_students.networks.patch_network import PATCH_SIZES
    from anomalib_students.networks.weights import BUNDLED, read_metadata, teacher_path

    bundled = [
        dict.fromkeys(teacher_path(BUNDLED, patch_size, architecture) for patch_size in patch_sizes)
        for architecture, patch_sizes in PATCH_SIZES.items()
    ]
    for paths in [[file]] if file else bundled:
        descriptions = [read_metadata(path) for path in paths]
        table = Table("", *(path.stem for path in paths))
        for name in dict.fromkeys(key for description in descriptions for key in sorted(description)):
            table.add_row(escape(name), *(escape(description.get(name, "")) for description in descriptions))
        Console().print(table)


class Parser(ArgumentParser):
    """A parser that takes ``-c`` for ``--config``, as anomalib's commands do."""

    def add_argument(self, *args: str, **kwargs: Any) -> Any:  # noqa: ANN401
        """Add an argument, and the short form of ``--config``."""
        return super().add_argument(*(("-c", *args) if args == ("--config",) else args), **kwargs)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line with ``args``, by default the arguments of the process."""
    words = sys.argv[1:] if args is None else list(args)
    if words[:1] in (["inspect"], ["check"], ["adjust"]):
        # These have a parser of their own: not all need torch and what else the others import.
        from anomalib_students.line.command import main as on_the_line

        sys.exit(on_the_line(words))
    from anomalib_students.report.page import report
    from anomalib_students.teacher.distil import distil
    from anomalib_students.teacher.pretrain import pretrain

    functions: dict[str, Any] = {"pretrain": pretrain, "distil": distil, "teachers": teachers, "report": report}
    # Fields of dataclasses are described where they are declared.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        auto_cli(
            functions, words, as_positional=False, parser_class=Parser, prog="anomalib-students", description=__doc__
        )
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(one_line("anomalib-students", error))
