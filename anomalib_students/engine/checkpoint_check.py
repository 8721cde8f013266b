"""Whether a checkpoint fits the model that loads it."""

from collections.abc import Mapping
from typing import Any

from anomalib_students.file_format import check_checkpoint_format

__all__ = ["check_arguments", "plain"]


def check_arguments(
    checkpoint: Mapping[str, Any], arguments: Mapping[str, object], before_named: Mapping[str, object] | None = None
) -> None:
    """Raise a ``ValueError`` if a checkpoint is of a newer format, or of a model with other arguments.

    ``arguments`` are those that the weights depend on, and ``before_named`` the values in checkpoints that lack them.
    """
    check_checkpoint_format(checkpoint, "The checkpoint")
    saved = {**(before_named or {}), **checkpoint.get("hyper_parameters", {})}
    for name, value in arguments.items():
        own, its = plain(value), plain(saved.get(name))
        if own != its:
            msg = f"The checkpoint is of a model with {name} {its}, but the model has {own}: set {name} alike."
            raise ValueError(msg)


def plain(value: object) -> object:
    """Turn tuples into lists: checkpoints and command lines differ in which they use."""
    return list(value) if isinstance(value, tuple) else value
