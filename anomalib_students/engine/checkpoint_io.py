"""anomalib's checkpoints, written whole or not at all."""

from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO

from .atomic_checkpoints import AtomicCheckpointIO

__all__ = ["CheckpointIO"]


class CheckpointIO(AtomicCheckpointIO, AnomalibCheckpointIO):
    """anomalib's checkpoints, written whole or not at all."""
