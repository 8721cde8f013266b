"""What the Lightning modules of this package have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_students.data.data_check import CheckedImages
from anomalib_students.engine.checkpoint_check import check_arguments
from anomalib_students.engine.checkpoint_format import CheckpointFormat
from anomalib_students.export.exact_export import ExactExport

from .metrics import F1Score, create_metrics
from .patch_mode import Mode

__all__ = ["Detector", "choose_components"]


class Detector(CheckpointFormat, CheckedImages, ExactExport):
    """Mixin of anomalib models that learn from good images.

    It goes before ``AnomalibModule`` among the base classes. That has to be one of them, or anomalib does not find the
    model by its name.

    Attributes:
        model: The torch model.
        decisive: Arguments that the weights depend on; checkpoints of models with others are refused.
        detached: Arguments that checkpoints have with these values, to need no file that the model was made from.
    """

    model: Any
    decisive: ClassVar[tuple[str, ...]]
    detached: ClassVar[Mapping[str, Any]] = {}

    def validation_step(self, batch: Batch) -> STEP_OUTPUT:
        """Predict anomaly maps and scores.

        Args:
            batch: Batch with images of shape ``(B, 3, H, W)``.

        Returns:
            The batch, with predictions.
        """
        return batch.update(**self.model(batch.image)._asdict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint independent of other files.

        Args:
            checkpoint: Checkpoint about to be written.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"].update(self.detached)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the pre- and post-processor, and check that the weights fit the model.

        Args:
            checkpoint: Checkpoint that is loaded.

        Raises:
            ValueError: If the checkpoint is of a model with other arguments that the weights depend on.
        """
        check_arguments(checkpoint, {name: self.hparams[name] for name in self.decisive}, self.before_named)
        super().on_load_checkpoint(checkpoint)

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator.

        Returns:
            AUROC and F1 of images and pixels, and AUPRO up to a false positive rate of 0.3, the paper's measure.
        """
        pixel_f1 = F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False)
        image_auroc, pixel_auroc, pixel_aupro = create_metrics()
        return Evaluator(test_metrics=[image_auroc, _image_f1(), pixel_auroc, pixel_f1, pixel_aupro])

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments of the trainer that the model depends on: no validation before it is trained."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """The model learns from anomaly-free images."""
        return LearningType.ONE_CLASS


def choose_components(
    mode: Mode,
    patch_sizes: Sequence[int],
    image_size: int,
    pre_processor: PreProcessor | bool,
    evaluator: Evaluator | bool,
    visualizer: Visualizer | bool,
) -> dict[str, Any]:
    """Choose the components around a model that ``True`` stands for.

    Args:
        mode: What is scored.
        patch_sizes: Sides of the patches that an image is zoomed to in the mode ``"patch"``.
        image_size: Side that images are resized to in the mode ``"pixel"``.
        pre_processor: Pre-processor, or ``True`` for resizing to ``image_size``, or to the largest patch size in the
            mode ``"patch"``, and ImageNet normalisation.
        evaluator: Evaluator, or ``True`` for the default, in the mode ``"patch"`` AUROC and F1 of images.
        visualizer: Visualizer, or ``True`` for the default, in the mode ``"patch"`` none: there is no map to show.

    Returns:
        Arguments of ``AnomalibModule``.

    Raises:
        ValueError: If ``image_size`` is not positive.
    """
    if pre_processor is True:
        # The model raises an error if there are no patch sizes.
        side = max(patch_sizes, default=0) if mode == "patch" else image_size
        if side < 1 and mode != "patch":
            msg = f"image_size must be a positive number of pixels, got {image_size}."
            raise ValueError(msg)
        pre_processor = AnomalibModule.configure_pre_processor((side, side))
    if mode == "patch":
        if evaluator is True:
            evaluator = Evaluator(test_metrics=[create_metrics()[0], _image_f1()])
        visualizer = False if visualizer is True else visualizer
    return {"pre_processor": pre_processor, "evaluator": evaluator, "visualizer": visualizer}


def _image_f1() -> AnomalibMetric:
    return F1Score(fields=["pred_label", "gt_label"], prefix="image_")
