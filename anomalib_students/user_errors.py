"""Errors that users can mend, in one line instead of a traceback.

The environment variable ``ANOMALIB_STUDENTS_DEBUG=1`` shows the traceback too.
"""

import os
import re
import sys
import traceback

__all__ = ["is_for_users", "one_line"]

DEBUG = "ANOMALIB_STUDENTS_DEBUG"
"""Environment variable that shows tracebacks."""
KINDS = (OSError, RuntimeError, ValueError)
"""What is raised on purpose for files, data and arguments."""
SOURCES = ("anomalib_students", "anomalib.data", "jsonargparse")
"""Packages whose errors of these kinds say what the user can do."""
REASON = re.compile(r"^ *- (?!Expected a <class)(.+)$", re.MULTILINE)
"""What jsonargparse says of one of several types that a value has not, among their names and all values."""


def one_line(program: str, error: Exception) -> str:
    """Say what is wrong, for a command to end with.

    Args:
        program: Name of the command.
        error: The error that is handled.

    Returns:
        Its message. The traceback is printed if the user wants to see it.
    """
    if os.environ.get(DEBUG, "0") not in {"", "0"}:
        traceback.print_exception(error)
    return f"{program}: {'; '.join(REASON.findall(str(error))) or error}"


def is_for_users(error: Exception) -> bool:
    """Decide whether the message of an error is enough.

    Args:
        error: Error, with its traceback.

    Returns:
        Whether a file was not found, or the error was raised on purpose: in this package, among anomalib's data sets,
        or for an argument of the command line.
    """
    if isinstance(error, FileNotFoundError):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    # What a file is opened with raises in the standard library.
    raised_in = next((name for name in reversed(modules) if name.partition(".")[0] not in sys.stdlib_module_names), "")
    return isinstance(error, KINDS) and f"{raised_in}.".startswith(tuple(f"{source}." for source in SOURCES))
