"""Make the tables and figures of the paper: ``python -m reproduction --help``."""

import sys

from jsonargparse import auto_cli, set_parsing_settings

from anomalib_students.user_errors import one_line
from reproduction.figures.commands import embedding, maps
from reproduction.one_class import torchvision_data  # noqa: F401  for --data OneClassMNIST
from reproduction.tables.commands import mvtec, one_class


def main(args: list[str] | None = None) -> None:
    """Run the command line with ``args``, by default the arguments of the process."""
    # Fields of dataclasses are described where they are declared.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    commands = {"mvtec": mvtec, "one-class": one_class, "maps": maps, "embedding": embedding}
    try:
        auto_cli(commands, args, as_positional=False, prog="python -m reproduction")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(one_line("reproduction", error))


if __name__ == "__main__":
    main()
