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
    """Save checkpoints so that a kill leaves the previous one, and raise an error that names a damaged one.

    Lightning writes the file to the temporary folder and moves it. If that is on another file system, the move is a
    copy, which can be cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        """Write the whole checkpoint before it replaces an older one."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_file(path, content.getvalue())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, and raise an error if it is damaged or of a newer format."""
        with naming_what_is_damaged(path):
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        check_checkpoint_format(checkpoint, f"The checkpoint {path}")
        return checkpoint
