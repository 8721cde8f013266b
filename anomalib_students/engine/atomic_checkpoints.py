"""Checkpoints that are written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from anomalib_students.file_format import check_checkpoint_format
from anomalib_students.files import naming_what_is_damaged, replace_file

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save checkpoints so that a kill leaves the previous one, and say so where one is damaged.

    Lightning's own way moves the file from the folder for temporary files, which is a copy, and can be cut short, where
    that is another file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        """Save a checkpoint.

        Args:
            checkpoint: What to save.
            path: Path of the file.
            storage_options: Unused.

        Raises:
            OSError: If the file cannot be written.
        """
        del storage_options
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_file(path, content.getvalue())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: Path of the file.
            args: What Lightning passes on to :func:`torch.load`.
            kwargs: Likewise.

        Returns:
            What was saved.

        Raises:
            RuntimeError: If the file is damaged.
            ValueError: If the file is of a newer format.
        """
        with naming_what_is_damaged(path):
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        check_checkpoint_format(checkpoint, f"The checkpoint {path}")
        return checkpoint
