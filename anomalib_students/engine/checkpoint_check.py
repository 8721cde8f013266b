"""Whether a checkpoint fits the model that loads it."""

from collections.abc import Mapping
from typing import Any

from anomalib_students.file_format import check_checkpoint_format

__all__ = ["check_arguments"]


def check_arguments(
    checkpoint: Mapping[str, Any], arguments: Mapping[str, object], before_named: Mapping[str, object] | None = None
) -> None:
    """Refuse a checkpoint of a model with other arguments, before its weights turn out not to fit.

    Args:
        checkpoint: Checkpoint of Lightning's.
        arguments: Arguments of the model that its weights depend on, by name.
        before_named: What the arguments were in checkpoints that do not name them yet.

    Raises:
        ValueError: If the checkpoint has another value for one of them, or is of a newer format.
    """
    check_checkpoint_format(checkpoint, "The checkpoint")
    saved = {**(before_named or {}), **checkpoint.get("hyper_parameters", {})}
    for name, value in arguments.items():
        own, its = _plain(value), _plain(saved.get(name))
        if own != its:
            msg = f"The checkpoint is of a model with {name} {its}, but the model has {own}: set {name} alike."
            raise ValueError(msg)


def _plain(value: object) -> object:
    """Make a list of a tuple: which of them an argument is depends on where it came from."""
    return list(value) if isinstance(value, tuple) else value
