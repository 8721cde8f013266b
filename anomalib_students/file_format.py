"""The format of checkpoints and teacher files: what a newer version has written is refused by name, and not misread."""

from collections.abc import Mapping

from . import __version__

__all__ = ["CHECKPOINT_KEY", "FORMAT", "check_checkpoint_format", "check_format"]

FORMAT = 2
"""Format of the files that this version writes. It grows when older versions could not read them rightly."""
CHECKPOINT_KEY = "anomalib_students_format"
"""Key of the format in checkpoints, beside those of Lightning and anomalib."""


def check_format(saved: object, what: str) -> None:
    """Refuse a file of a format that this version does not know.

    Args:
        saved: Format that the file names; None if it names none, as files of the first versions don't.
        what: What has the format, for the error: ``"The teacher p17.safetensors"``.

    Raises:
        ValueError: If the format is newer, or is no format.

    Example:
        >>> check_format("1", "The teacher p17.safetensors")
    """
    name = "1" if saved is None else str(saved)
    if not (name.isdecimal() and 1 <= int(name) <= FORMAT):
        msg = (
            f"{what} has format {name[:20]}, but anomalib-students {__version__} knows formats up to {FORMAT}: install "
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
    check_format(checkpoint.get(CHECKPOINT_KEY), what)
