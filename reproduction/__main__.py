"""Make the tables and figures of the paper: ``python -m reproduction --help``."""

import sys

from jsonargparse import auto_cli

from anomalib_students.user_errors import one_line
from reproduction.figures.embedding import embedding
from reproduction.figures.maps import maps
from reproduction.mvtec import mvtec
from reproduction.one_class.tables import one_class

COMMANDS = {"mvtec": mvtec, "one-class": one_class, "maps": maps, "embedding": embedding}


def main(args: list[str] | None = None) -> None:
    """Run the command line with ``args``, by default the arguments of the process."""
    try:
        auto_cli(COMMANDS, args, as_positional=False, prog="python -m reproduction")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(one_line("reproduction", error))


if __name__ == "__main__":
    main()
