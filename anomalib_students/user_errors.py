"""What users read: errors that they can fix, in one line instead of a traceback, and no messages for authors.

The environment variable ``ANOMALIB_STUDENTS_DEBUG=1`` shows the traceback too.
"""

import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

REASON = re.compile(r"^ *- (?!Expected a <class)(.+)$", re.MULTILINE)
"""Why jsonargparse rejects a value for one of several types; its message also lists the types and all values."""


def one_line(program: str, error: Exception) -> str:
    """Return the message that a command ends with, and print the traceback if the user wants to see it.

    Example:
        >>> one_line("anomalib-students", ValueError("There are no images."))
        'anomalib-students: There are no images.'
    """
    if os.environ.get("ANOMALIB_STUDENTS_DEBUG", "0") not in {"", "0"}:
        traceback.print_exception(error)
    return f"{program}: {'; '.join(REASON.findall(str(error))) or error}"


@contextmanager
def only_warnings_of(*names: str) -> Iterator[None]:
    """Let loggers, and those below them, log only warnings and errors within a block."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
