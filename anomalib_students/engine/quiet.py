"""Less to read: loggers whose information is for their own authors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LIGHTNING", "only_warnings_of"]

LIGHTNING = "lightning.pytorch"
"""Logger of Lightning and of what uses its functions for logging."""


@contextmanager
def only_warnings_of(*names: str) -> Iterator[None]:
    """Have loggers log nothing below a warning for a while, and neither those below them.

    Args:
        names: Names of the loggers.

    Yields:
        Nothing; their levels are restored afterwards.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
