"""The format of checkpoints and teacher files: what a newer version has written is refused by name, and not misread."""

from collections.abc import Mapping

from . import __version__

__all__ = ["CHECKPOINT_FORMAT", "CHECKPOINT_KEY", "TEACHER_FORMAT", "check_checkpoint_format", "check_format"]

CHECKPOINT_FORMAT = 2
"""Format of the checkpoints that this version writes. It grows when older versions could not read them rightly.

Since 2, a model has a threshold of good images."""
TEACHER_FORMAT = 1
"""Format of the teacher files that this version writes."""
CHECKPOINT_KEY = "anomalib_students_format"
"""Key of the format in checkpoints, beside those of Lightning and anomalib."""


def check_format(saved: object, newest: int, what: str) -> None:
    """Refuse a file of a format that this version does not know.

    Args:
        saved: Format that the file names; None if it names none, as files of the first versions don't.
        newest: Newest format of such files that this version knows.
        what: What has the format, for the error: ``"The teacher p17.safetensors"``.

    Raises:
        ValueError: If the format is newer, or is no format.

    Example:
        >>> check_format("1", TEACHER_FORMAT, "The teacher p17.safetensors")
    """
    name = "1" if saved is None else str(saved)
    if not (name.isdecimal() and 1 <= int(name) <= newest):
        msg = (
            f"{what} has format {name[:20]}, but anomalib-students {__version__} knows formats up to {newest}: install "
            "the version that wrote it, or a newer one."
        )
        raise ValueError(msg)


def check_checkpoint_format(checkpoint: Mapping[str, object], what: str) -> None:
    """Refuse a checkpoint of a format that this version does not know.

    Args:
        checkpoint: Checkpoint of Lightning's.
        what: What it is, for the error.

    Raises:
        ValueError: If the format is newer, or is no format.
    """
    check_format(checkpoint.get(CHECKPOINT_KEY), CHECKPOINT_FORMAT, what)
