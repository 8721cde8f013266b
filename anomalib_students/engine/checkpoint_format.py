"""Checkpoints of our models: written whole or not at all, named if they are damaged, and with their format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from anomalib.metrics import Evaluator
from anomalib.models import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import LightningModule

from anomalib_students.file_format import CHECKPOINT_FORMAT, CHECKPOINT_KEY, check_checkpoint_format
from anomalib_students.files import naming_what_is_damaged

from .checkpoint_io import CheckpointIO

__all__ = ["CheckpointFormat"]

METRICS = "evaluator"
"""Component of a model that has its metrics."""
OURS = "post_processor.good_images"
"""Entry of the state that :class:`~anomalib_students.model.post_processor.FalseAlarmPostProcessor` has."""


class CheckpointFormat(LightningModule):
    """Mixin of anomalib models: save the format in checkpoints, reject newer ones, and complete older ones.

    It goes before ``AnomalibModule`` among the base classes.

    Attributes:
        before_named: Arguments of the model, for checkpoints that were saved before these existed.
    """

    before_named: ClassVar[Mapping[str, Any]] = {}

    def setup(self, stage: str) -> None:
        """Replace anomalib's way of writing checkpoints by one that writes them whole or not at all."""
        super().setup(stage)
        strategy = self.trainer.strategy
        written_by = strategy.checkpoint_io
        # Not if the user has chosen another way.
        if type(written_by) is AnomalibCheckpointIO:
            strategy.checkpoint_io = CheckpointIO(written_by.extra_safe_globals)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the format, and nothing of the metrics."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] = CHECKPOINT_FORMAT
        if isinstance(metrics := getattr(self, METRICS, None), Evaluator):
            # Its state is also saved as that of a callback.
            checkpoint.get("callbacks", {}).pop(metrics.state_key, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the pre- and post-processor; the metrics are this model's.

        Raises:
            ValueError: If the checkpoint has thresholds of another kind of post-processor.
        """
        checkpoint.get("anomalib_components_enabled", {}).pop(METRICS, None)
        saved = OURS in checkpoint["state_dict"]
        own = getattr(self, "post_processor", None)
        if own is not None and hasattr(own, "good_images") != saved:
            kinds = ("anomalib's PostProcessor", "FalseAlarmPostProcessor, the default")
            msg = f"The checkpoint has the thresholds of {kinds[saved]}: give the model the same post_processor."
            raise ValueError(msg)
        super().on_load_checkpoint(checkpoint)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return weights and statistics, without those of metrics: a checkpoint is tested with any."""
        state = super().state_dict(*args, **kwargs)
        for name in _of_metrics(state):
            del state[name]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load weights and statistics; the metrics keep their state."""
        state, own = dict(state_dict), super().state_dict()
        for name in _of_metrics(state):
            del state[name]
        state.update({name: own[name] for name in _of_metrics(own)})
        return super().load_state_dict(state, *args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model as anomalib does, but complete the arguments of older checkpoints.

        Raises:
            RuntimeError: If the file is damaged.
            ValueError: If the checkpoint is of a newer format, or of a model with other networks.
        """
        checkpoint = _read(cast("type[AnomalibModule]", cls), checkpoint_path)
        # Before its arguments are used, which this version may not know.
        check_checkpoint_format(checkpoint, f"The checkpoint {checkpoint_path}")
        saved = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, cls.before_named)
        missing = {name: value for name, value in cls.before_named.items() if name not in saved}
        with naming_what_is_damaged(checkpoint_path):
            return super().load_from_checkpoint(checkpoint_path, *args, **{**missing, **kwargs})


def _of_metrics(state: Mapping[str, Any]) -> list[str]:
    return [name for name in state if name.startswith(f"{METRICS}.")]


def _read(model: type[AnomalibModule], path: str | Path) -> Mapping[str, Any]:
    """Read a checkpoint without its weights; empty if it is damaged, as reading it with the weights then reports."""
    try:
        with anomalib_safe_globals(extra=model.checkpoint_safe_globals()):
            return torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # noqa: BLE001
        return {}
