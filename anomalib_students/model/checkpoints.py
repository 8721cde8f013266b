"""Checkpoints of the model: written whole or not at all, with their format, and independent of other files."""

from collections.abc import Mapping
from inspect import currentframe
from traceback import walk_stack
from typing import Any, cast

import torch
from anomalib.engine import Engine
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from anomalib.metrics import Evaluator
from anomalib.models import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import LightningModule

from anomalib_students.files import check_format, naming_what_is_damaged
from anomalib_students.trainings import AtomicCheckpointIO

CHECKPOINT_FORMAT = 1
"""Format of the checkpoints that this version writes. It grows when older versions would misread them."""
CHECKPOINT_KEY = "anomalib_students_format"  # Key of the format in checkpoints.
METRICS = "evaluator"  # Component of a model that has its metrics.
CHECKED = ("patch_sizes", "n_students", "descriptor_dim", "architecture")
"""Arguments that the weights depend on: checkpoints with another value than the model's are refused."""


class CheckpointIO(AtomicCheckpointIO, AnomalibCheckpointIO):
    """anomalib's checkpoints, written whole or not at all, and refused if they are of another format."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Load a checkpoint, and check its format."""
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        check_format(checkpoint.get(CHECKPOINT_KEY), CHECKPOINT_FORMAT, f"The checkpoint {path}")
        return checkpoint


class Checkpoints(LightningModule):
    """Mixin of anomalib models: checkpoints have a format and no metrics, and are checked before they are loaded.

    It goes before ``AnomalibModule`` among the base classes.
    """

    def setup(self, stage: str) -> None:
        """Write checkpoints whole or not at all, unless the user has chosen another way."""
        super().setup(stage)
        strategy = self.trainer.strategy
        written_by = strategy.checkpoint_io
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
            ValueError: If the checkpoint is of another format, other networks or another kind of post-processor.
        """
        check_format(checkpoint.get(CHECKPOINT_KEY), CHECKPOINT_FORMAT, "The checkpoint")
        saved = checkpoint["hyper_parameters"]
        for name in CHECKED:
            own, theirs = self.hparams[name], saved[name]
            # Command lines give lists of patch sizes.
            if own is not None and (tuple(own) != tuple(theirs) if name == "patch_sizes" else own != theirs):
                raise ValueError(f"The checkpoint is of a model with {name} {theirs}, the model has {own}: set it so.")
        has_ours = "post_processor.good_images" in checkpoint["state_dict"]
        own = getattr(self, "post_processor", None)
        if own is not None and hasattr(own, "good_images") != has_ours:
            kinds = ("anomalib's PostProcessor", "FalseAlarmPostProcessor, the default")
            raise ValueError(f"The checkpoint has thresholds of {kinds[has_ours]}: give the model that post_processor.")
        checkpoint.get("anomalib_components_enabled", {}).pop(METRICS, None)
        super().on_load_checkpoint(checkpoint)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return weights and statistics, without those of metrics: a checkpoint is tested with any."""
        state = super().state_dict(*args, **kwargs)
        for name in _of_metrics(state):
            del state[name]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load weights and statistics; the metrics keep their state."""
        own = super().state_dict()
        metrics = {name: own[name] for name in _of_metrics(own)}
        return super().load_state_dict({**state_dict, **metrics}, *args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model; for ``Engine.export``, into the one that it was given, whose arguments it would ignore.

        Raises:
            RuntimeError: If the file is damaged.
            ValueError: If the checkpoint is of another format, or of a model with other networks.
        """
        with naming_what_is_damaged(checkpoint_path):
            with anomalib_safe_globals(extra=cast("type[AnomalibModule]", cls).checkpoint_safe_globals()):
                checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
            # Before its arguments are used, which this version may not know.
            check_format(checkpoint.get(CHECKPOINT_KEY), CHECKPOINT_FORMAT, f"The checkpoint {checkpoint_path}")
            for frame, _ in walk_stack(currentframe()):
                if frame.f_code is Engine.export.__code__:
                    model: Checkpoints = frame.f_locals["model"]
                    model.on_load_checkpoint(checkpoint)
                    model.load_state_dict(checkpoint["state_dict"])
                    return model
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)


def _of_metrics(state: Mapping[str, Any]) -> list[str]:
    return [name for name in state if name.startswith(f"{METRICS}.")]
