"""Checkpoints of anomalib's that are written whole or not at all."""

from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO

from .atomic_checkpoints import AtomicCheckpointIO

__all__ = ["CheckpointIO"]


class CheckpointIO(AtomicCheckpointIO, AnomalibCheckpointIO):
    """Checkpoints that are written whole or not at all, with what anomalib keeps in them."""
