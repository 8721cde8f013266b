"""Exported models at work on a production line. Nothing here imports torch, except :mod:`.adjust`."""

from .drift import Drift, DriftMonitor
from .inspection import Result, inspect
from .model import LineModel

__all__ = ["Drift", "DriftMonitor", "LineModel", "Result", "inspect"]
