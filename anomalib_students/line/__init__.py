"""Exported models at work on a production line: inspection of images. Nothing here imports torch."""

from .inspection import Result, inspect
from .model import LineModel

__all__ = ["LineModel", "Result", "inspect"]
