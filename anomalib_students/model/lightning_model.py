"""Uninformed Students for anomalib.

Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative Latent Embeddings", CVPR
2020: a teacher describes the neighbourhood of every pixel, students learn to imitate it on good images only, and where
they err or disagree, an image is anomalous.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import UninformedStudents
    >>> Engine().train(UninformedStudents(), datamodule=MVTec())  # doctest: +SKIP

See Also:
    :class:`anomalib_students.model.torch_model.UninformedStudentsModel`: the networks, without the training.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_students.export.openvino import ExactExport
from anomalib_students.networks.patch_network import Architecture
from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path

from .augment import TrainingMode
from .callbacks import PictureWriter
from .checkpoints import Checkpoints
from .hold_out import HoldOut
from .metrics import create_evaluator
from .post_processor import FalseAlarmPostProcessor
from .settings import PRESETS, Preset, Settings, named_settings, settings_of
from .torch_model import UninformedStudentsModel
from .training import StudentTraining

logger = logging.getLogger(__name__)

SETTINGS_KEY = "anomalib_students_settings"  # Key of the settings in checkpoints.


class UninformedStudents(StudentTraining, Checkpoints, ExactExport, AnomalibModule):
    """Lightning module of the student-teacher ensembles of Bergmann et al. (CVPR 2020).

    What is None is that of the preset, or of a checkpoint that is loaded.

    Args:
        preset: ``"default"`` for inspection on a CPU, ``"paper"`` for the paper's settings, or all settings, of which
            some are no arguments.
        patch_sizes: Sides p of the receptive fields in pixels, ``(83, 167)`` by default; scores of several are
            averaged.
        image_size: Side in pixels of the square that images are resized to, unless there is a ``pre_processor``; 320 by
            default.
        n_students: Number M of students for each patch size, 1 by default. One student errs on defects as three do, at
            half the cost; several also disagree (eq. 10).
        output_stride: Distance in pixels between scored pixels at inference: 1, 2, 4 or 8, and 8 by default. The others
            are interpolated.
        training_mode: ``"dense"`` trains on every pixel of an image in each step, as the paper; ``"phase"``, the
            default, on a random sample of them, at a fraction of the cost.
        architecture: ``"lean"``, the default, for the networks with the best teacher, of p = 83 and 167; ``"paper"``
            for the paper's, of p = 17, 33 and 65.
        teacher: ``"bundled"`` for the teachers that come with the package, the path of a teacher file, or a mapping
            from patch size to either. ``None`` leaves the teachers without weights, for a checkpoint to fill in.
        descriptor_dim: Dimension d of the descriptors, as the teachers were trained with; 208 by default.
        max_tile: Largest side in pixels of what is scored at once, which bounds the memory; 512 by default. Larger
            images are scored in tiles, with the same scores as in one piece.
        lr: Learning rate of Muon, 5e-3 by default, or with the paper's preset of Adam, 1e-4.
        normalization_split: Fraction of the anomaly-free training images that is held out for the statistics of eq. 11
            and for the threshold, 0.1 by default; at least ten, or a quarter of fewer than forty.
        pre_processor: Pre-processor, or ``True`` for resizing to ``image_size`` and ImageNet normalisation.
        post_processor: Post-processor, or ``True`` for thresholds from held-out good images, see
            :class:`~anomalib_students.model.post_processor.FalseAlarmPostProcessor`.
        evaluator: Evaluator, or ``True`` for AUROC and F1 of images and pixels, and AUPRO up to a false positive rate
            of 0.3.
        visualizer: Visualizer, or ``True`` for anomalib's default.

    Attributes:
        settings: All settings.

    Raises:
        ValueError: If an argument is out of range, or a teacher does not fit ``patch_sizes``, ``descriptor_dim``
            and ``architecture``.
        FileNotFoundError: If a teacher file does not exist.

    Example:
        >>> model = UninformedStudents(patch_sizes=(83,), n_students=2, output_stride=4)
        >>> model.settings.patch_sizes, model.settings.image_size
        ((83,), 320)
    """

    def __init__(
        self,
        preset: Preset | Settings = "default",
        patch_sizes: Sequence[int] | None = None,
        image_size: int | None = None,
        n_students: int | None = None,
        output_stride: int | None = None,
        training_mode: TrainingMode | None = None,
        architecture: Architecture | None = None,
        teacher: str | Mapping[int, str] | None = BUNDLED,
        descriptor_dim: int | None = None,
        max_tile: int | None = None,
        lr: float | None = None,
        normalization_split: float | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: FalseAlarmPostProcessor | PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        settings = settings_of(preset, locals())
        super().__init__(
            pre_processor=self.configure_pre_processor((settings.image_size,) * 2)
            if pre_processor is True
            else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.settings = settings
        # Checkpoints have plain data: the settings themselves are saved beside it.
        self.hparams["preset"] = "default" if isinstance(preset, Settings) else preset
        self.model: UninformedStudentsModel = UninformedStudentsModel(settings)
        if teacher is not None:
            for scale in self.model.scales:
                path = teacher_path(teacher, scale.patch_size, settings.architecture)
                scale.teacher = load_teacher(path, scale.patch_size, settings.dim, settings.architecture)
        self.hold_out = HoldOut(settings.normalization_split)

    def validation_step(self, batch: Batch) -> STEP_OUTPUT:
        """Predict anomaly maps and scores of a batch with images of shape ``(B, 3, H, W)``."""
        return batch.update(**self.model(batch.image)._asdict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the settings, and the statistics of the scores of the students as they are; all processes take part."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._calibrate()
            # The weights are those of the checkpoint already; some strategies have copied them.
            state = checkpoint["state_dict"]
            state.update({name: value for name, value in self.named_buffers() if name in state})
        super().on_save_checkpoint(checkpoint)
        settings = checkpoint[SETTINGS_KEY] = asdict(replace(self.settings, descriptor_dim=self.settings.dim))
        # No argument is open, and the teachers are in the checkpoint.
        given = {name: settings[name] for name in self.hparams if name in settings}
        checkpoint["hyper_parameters"].update(given, teacher=None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what the user has not named from the checkpoint.

        Raises:
            ValueError: If the checkpoint does not fit, see :class:`~anomalib_students.model.checkpoints.Checkpoints`.
        """
        super().on_load_checkpoint(checkpoint)
        settings = replace(Settings(**checkpoint[SETTINGS_KEY]), **named_settings(self.hparams))
        if settings != self.settings:
            self.settings = settings
            self.model = UninformedStudentsModel(settings)
        with suppress(RuntimeError):
            # Data sets resize as the pre-processor did before it was restored. Without a trainer there are none.
            if isinstance(datamodule := getattr(self.trainer, "datamodule", None), AnomalibDataModule):
                datamodule.setup(self.trainer.state.fn)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments of the trainer that the model depends on: no validation before it is trained."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """The model learns from anomaly-free images."""
        return LearningType.ONE_CLASS

    @property
    def needs_validation(self) -> bool:
        """Whether the threshold or a metric comes from validation images; data modules may leave them out otherwise."""
        own = self.post_processor
        by_good_images = isinstance(own, FalseAlarmPostProcessor) and own.threshold != "f1"
        return not by_good_images or len(getattr(self.evaluator, "val_metrics", ())) > 0

    def configure_post_processor(self) -> PostProcessor:
        """Configure thresholds for a false alarm on 1 % of the good images, chosen by the held-out ones."""
        return FalseAlarmPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure AUROC and F1 of images and pixels, and the paper's AUPRO up to a false positive rate of 0.3."""
        return create_evaluator()

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Configure pictures of images, maps and masks."""
        return PictureWriter()

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure antialiased resizing, by default to the default ``image_size``, and ImageNet normalisation."""
        return AnomalibModule.configure_pre_processor(image_size or (PRESETS["default"].image_size,) * 2)
