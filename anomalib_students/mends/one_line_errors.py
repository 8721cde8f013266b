"""Errors that users can fix, for which the command line of anomalib 2.7 prints a hundred lines of traceback."""

import sys
from collections.abc import Callable

from anomalib_students.user_errors import is_for_users, one_line

from .patching import wrap

__all__ = ["end_in_one_line"]


def end_in_one_line() -> None:
    """End anomalib's commands in one line if that is enough."""
    wrap("anomalib.cli.cli", "main", _end_in_one_line, otherwise="all errors of its commands show a traceback")


def _end_in_one_line(main: Callable[[], None], _: None, args: tuple, kwargs: dict) -> None:
    try:
        main(*args, **kwargs)
    except Exception as error:
        if not is_for_users(error):
            raise
        sys.exit(one_line("anomalib", error))
