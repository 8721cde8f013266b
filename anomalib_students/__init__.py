"""Uninformed Students (Bergmann et al., CVPR 2020) for anomalib.

The public names are loaded on first use, so that importing the package, as its entry point does within
``import torch``, imports nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data import MVTec, Parts, SampleParts
    from .model.lightning_model import UninformedStudents
    from .model.post_processor import FalseAlarmPostProcessor
    from .model.torch_model import UninformedStudentsModel

__version__ = "0.1.0"

__all__ = [
    "FalseAlarmPostProcessor",
    "MVTec",
    "Parts",
    "SampleParts",
    "UninformedStudents",
    "UninformedStudentsModel",
    "__version__",
]

_HOME = {
    "FalseAlarmPostProcessor": ".model.post_processor",
    "MVTec": ".data",
    "Parts": ".data",
    "SampleParts": ".data",
    "UninformedStudents": ".model.lightning_model",
    "UninformedStudentsModel": ".model.torch_model",
}


def __getattr__(name: str) -> object:
    """Import the public name's module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
