"""Checkpoints that name their format."""

from pathlib import Path
from typing import Any

import torch
from anomalib.models import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import LightningModule

from .file_format import CHECKPOINT_KEY, FORMAT, check_checkpoint_format

__all__ = ["CheckpointFormat"]


class CheckpointFormat(LightningModule):
    """Mixin of anomalib models: name the format in checkpoints, and refuse newer ones by name.

    It goes before ``AnomalibModule`` among the base classes.
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the format.

        Args:
            checkpoint: Checkpoint about to be written.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] = FORMAT

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model, see :meth:`anomalib.models.AnomalibModule.load_from_checkpoint`.

        Args:
            checkpoint_path: Path of the checkpoint.
            args: See there.
            kwargs: Likewise.

        Returns:
            The model.

        Raises:
            ValueError: If the checkpoint is of a newer format, or of a model with other networks.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except Exception:
            # Its arguments may mean nothing to this version, which its error would be about.
            _refuse_newer(cls, checkpoint_path)
            raise


def _refuse_newer(model: type[LightningModule], path: str | Path) -> None:
    """Refuse a checkpoint if its format is the reason why it can't be loaded."""
    safe = model.checkpoint_safe_globals() if issubclass(model, AnomalibModule) else ()
    try:
        with anomalib_safe_globals(extra=safe):
            checkpoint = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # noqa: BLE001
        # Then that is the reason.
        return
    check_checkpoint_format(checkpoint, f"The checkpoint {path}")
