"""The format of checkpoints and teacher files: a file of a newer format raises an error instead of being misread."""

from collections.abc import Mapping

from . import __version__

__all__ = ["CHECKPOINT_FORMAT", "CHECKPOINT_KEY", "TEACHER_FORMAT", "check_checkpoint_format", "check_format"]

CHECKPOINT_FORMAT = 1
"""Format of the checkpoints that this version writes. It grows when older versions would misread them."""
TEACHER_FORMAT = 1
"""Format of the teacher files that this version writes."""
CHECKPOINT_KEY = "anomalib_students_format"
"""Key of the format in checkpoints."""


def check_format(saved: object, newest: int, what: str) -> None:
    """Raise a ``ValueError`` if a file is of a newer format, or of none.

    ``what`` names the file in the error: ``"The teacher p17.safetensors"``.

    Example:
        >>> check_format("1", TEACHER_FORMAT, "The teacher p17.safetensors")
    """
    name = str(saved)
    if not (name.isdecimal() and 1 <= int(name) <= newest):
        msg = (
            f"{what} has format {name[:20]}, but anomalib-students {__version__} knows formats up to {newest}: install "
            "the version that wrote it, or a newer one."
        )
        raise ValueError(msg)


def check_checkpoint_format(checkpoint: Mapping[str, object], what: str) -> None:
    """Raise a ``ValueError`` if a checkpoint is of a newer format, or of none; ``what`` names it in the error."""
    check_format(checkpoint.get(CHECKPOINT_KEY), CHECKPOINT_FORMAT, what)
