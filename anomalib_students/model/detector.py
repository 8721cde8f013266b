"""What the Lightning modules of this package have in common."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, cast

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_students.data.data_check import ImageCheck
from anomalib_students.engine.checkpoint_check import check_arguments, plain
from anomalib_students.engine.checkpoint_format import CheckpointFormat
from anomalib_students.export.openvino import ExactExport

from .metrics import F1Score, create_metrics
from .visualizer import PictureWriter

__all__ = ["Detector"]


class Detector(CheckpointFormat, ExactExport):
    """Mixin of anomalib models that learn from good images.

    It goes before ``AnomalibModule`` among the base classes: anomalib finds by name only its direct subclasses.

    Attributes:
        model: The torch model.
        checked_arguments: Arguments that the weights depend on; checkpoints with other values are rejected.
        saved_arguments: Values of arguments in checkpoints, so that they need no file that the model was made from.
    """

    model: Any
    checked_arguments: ClassVar[tuple[str, ...]]
    saved_arguments: ClassVar[Mapping[str, Any]] = {}

    def configure_callbacks(self) -> Sequence[Callback]:
        """Check the data before other callbacks take images out of them."""
        return [ImageCheck(), *super().configure_callbacks()]  # type: ignore[misc]

    def validation_step(self, batch: Batch) -> STEP_OUTPUT:
        """Predict anomaly maps and scores of a batch with images of shape ``(B, 3, H, W)``."""
        # Not as torchvision's type of images, which torch can't compile.
        return batch.update(**self.model(cast("torch.Tensor", batch.image).as_subclass(torch.Tensor))._asdict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint independent of other files."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"].update(self.saved_arguments)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the pre- and post-processor, and check that the weights fit the model.

        Raises:
            ValueError: If the checkpoint is of a model with other arguments that the weights depend on.
        """
        named = [name for name in self.checked_arguments if self.is_named(name)]
        check_arguments(checkpoint, {name: self.hparams[name] for name in named}, self.before_named)
        super().on_load_checkpoint(checkpoint)

    def is_named(self, argument: str) -> bool:
        """Whether an argument has another value than its default."""
        return plain(self.hparams[argument]) != plain(signature(type(self)).parameters[argument].default)

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure AUROC and F1 of images and pixels, and the paper's AUPRO up to a false positive rate of 0.3."""
        pixel_f1 = F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False)
        image_auroc, pixel_auroc, pixel_aupro = create_metrics()
        return Evaluator(test_metrics=[image_auroc, _image_f1(), pixel_auroc, pixel_f1, pixel_aupro])

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Configure pictures of images, maps and masks."""
        return PictureWriter()

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments of the trainer that the model depends on: no validation before it is trained."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """The model learns from anomaly-free images."""
        return LearningType.ONE_CLASS


def _image_f1() -> AnomalibMetric:
    return F1Score(fields=["pred_label", "gt_label"], prefix="image_")
