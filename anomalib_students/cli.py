"""The command ``anomalib-students``: pretrain teachers, and show what models decide."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_students.networks.patch_network import ARCHITECTURES
from anomalib_students.networks.weights import BUNDLED, read_metadata, teacher_path
from anomalib_students.report.command import report
from anomalib_students.teacher.distil import distil
from anomalib_students.teacher.pretrain import pretrain
from anomalib_students.user_errors import one_line

__all__ = ["main", "teachers"]


def teachers(file: Path | None = None) -> None:
    """Describe a teacher file, or list the teachers that come with the package.

    Args:
        file: Teacher file. By default the bundled ones.
    """
    bundled = [
        [teacher_path(BUNDLED, patch_size, architecture) for patch_size in sorted(networks)]
        for architecture, networks in ARCHITECTURES.items()
    ]
    for paths in [[file]] if file else bundled:
        descriptions = [read_metadata(path) for path in paths]
        table = Table("", *(path.stem for path in paths))
        for name in dict.fromkeys(key for description in descriptions for key in sorted(description)):
            table.add_row(escape(name), *(escape(description.get(name, "")) for description in descriptions))
        Console().print(table)


FUNCTIONS: dict[str, Callable[..., object]] = {
    "pretrain": pretrain,
    "distil": distil,
    "teachers": teachers,
    "report": report,
}


def create_parser() -> ArgumentParser:
    """Make the parser, with a subcommand for each function."""
    # Fields of dataclasses are described where they are declared.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="anomalib-students", description=__doc__)
    subcommands = parser.add_subcommands()
    for name, function in FUNCTIONS.items():
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        subcommand = ArgumentParser(description=summary)
        subcommands.add_subcommand(name, subcommand, help=summary)
        subcommand.add_argument("-c", "--config", action="config", help="YAML file with any of these arguments.")
        subcommand.add_function_arguments(function, as_group=False)
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line with ``args``, by default the arguments of the process."""
    parser = create_parser()
    settings = parser.parse_args(None if args is None else list(args))
    try:
        chosen = parser.instantiate_classes(settings)
        arguments = chosen[chosen.subcommand].as_dict()
        arguments.pop("config", None)
        FUNCTIONS[chosen.subcommand](**arguments)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(one_line("anomalib-students", error))
