"""Fewer messages: loggers whose information is for their own authors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LIGHTNING", "only_warnings_of"]

LIGHTNING = "lightning.pytorch"
"""Logger of Lightning, and of everything that logs by its functions."""


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
