"""Results of a test or a prediction before the first training.

anomalib 2.7 writes them to a folder ``latest``, where the training needs a link.
"""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

from .patching import wrap

__all__ = ["keep_untrained_results"]


def keep_untrained_results() -> None:
    """Give results that were there before a training a version of their own."""
    wrap(
        "anomalib.engine.engine",
        "create_versioned_dir",
        _make_way,
        otherwise="a training may fail after a test of the untrained model",
    )


def _make_way(create: Callable[..., Path], _: None, args: tuple, kwargs: dict) -> Path:
    root = Path(args[0] if args else kwargs["root_dir"])
    latest = root / "latest"
    # On Windows the link is a folder to Python, and anomalib removes what is in its place.
    if os.name == "posix" and latest.is_dir() and not latest.is_symlink():
        latest.rename(next(path for number in count() if not (path := root / f"v{number}").exists()))
    return create(*args, **kwargs)
