"""The command ``anomalib-students``: pretrain teachers, make the paper's tables, show what models see and decide."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_students.figures.commands import embedding, maps
from anomalib_students.model.patch_network import ARCHITECTURES
from anomalib_students.paper.commands import mvtec, one_class
from anomalib_students.report.command import report
from anomalib_students.teacher.distil import distil
from anomalib_students.teacher.task import pretrain
from anomalib_students.teacher.weights import BUNDLED, read_metadata, teacher_path
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


Functions = Mapping[str, "Callable[..., object] | Functions"]

FUNCTIONS: Functions = {
    "pretrain": pretrain,
    "distil": distil,
    "teachers": teachers,
    "maps": maps,
    "embedding": embedding,
    "report": report,
    "experiments": {"mvtec": mvtec, "one-class": one_class},
}
SUMMARIES = {"experiments": "Make the tables of the paper, ours beside the paper's figures."}
"""Summaries of the groups of functions."""


def create_parser() -> ArgumentParser:
    """Make the parser, with a subcommand for each function."""
    # Fields of dataclasses are described where they are declared.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="anomalib-students", description=__doc__)
    _add_functions(parser, FUNCTIONS)
    return parser


def _add_functions(parser: ArgumentParser, functions: Functions) -> None:
    subcommands = parser.add_subcommands()
    for name, function in functions.items():
        summary = SUMMARIES.get(name) or (inspect.getdoc(function) or "").partition("\n")[0]
        subcommand = ArgumentParser(description=summary)
        subcommands.add_subcommand(name, subcommand, help=summary)
        if isinstance(function, Mapping):
            _add_functions(subcommand, function)
        else:
            subcommand.add_argument("-c", "--config", action="config", help="YAML file with any of these arguments.")
            subcommand.add_function_arguments(function, as_group=False)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line with ``args``, by default the arguments of the process."""
    parser = create_parser()
    settings = parser.parse_args(None if args is None else list(args))
    try:
        chosen = parser.instantiate_classes(settings)
        function: Any = FUNCTIONS
        while "subcommand" in chosen:
            function, chosen = function[chosen.subcommand], chosen[chosen.subcommand]
        arguments = chosen.as_dict()
        arguments.pop("config", None)
        function(**arguments)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(one_line("anomalib-students", error))
