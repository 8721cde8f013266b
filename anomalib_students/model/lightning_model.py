"""Uninformed Students for anomalib.

Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative Latent Embeddings", CVPR
2020: a teacher describes the neighbourhood of every pixel, an ensemble of students learns to imitate it on good parts
only, and where they err or disagree, a part is anomalous.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import UninformedStudents
    >>> Engine().train(UninformedStudents(), datamodule=MVTec())  # doctest: +SKIP

See Also:
    :class:`anomalib_students.model.torch_model.UninformedStudentsModel`: the networks, without the training.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from math import ceil, inf
from typing import Any, ClassVar, cast, get_args

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from anomalib_students.engine.checkpoint_check import plain
from anomalib_students.engine.engine_defaults import LastValidation, RegularCheckpoint, has_open_length
from anomalib_students.engine.precision import has_bfloat16
from anomalib_students.engine.random_state import RandomState
from anomalib_students.engine.termination import Termination
from anomalib_students.engine.training_time import TrainingTime
from anomalib_students.networks.patch_network import Architecture
from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path

from .augment import TrainingMode
from .detector import Detector
from .normalization_split import NormalizationSplit, sample_indices
from .post_processor import FalseAlarmPostProcessor
from .schedule import LearningRateSchedule, cosine_with_warm_up
from .statistics import RunningStatistics
from .torch_model import UninformedStudentsModel

__all__ = ["BEFORE_NAMED", "PAPER", "UninformedStudents"]

logger = logging.getLogger(__name__)

PAPER_EPOCHS = 100
"""Epochs that the paper trains for (Section 4.2)."""
TRAINING_IMAGES = 15_000
"""Least number of images that a training of open length shows to the students, one a step: minutes on two cores."""
WARM_UP_STEPS = 100
"""Most steps in which the learning rate rises, because the first steps of Adam would lead the students astray."""
IMAGE_SIZE = 320
PAPER: Mapping[str, Any] = {
    "image_size": 256,
    "architecture": "paper",
    "patch_sizes": (17, 33, 65),
    "n_students": 3,
    "hard_fraction": 1.0,
    "light_jitter": 0.0,
    "synthetic_defects": 0.0,
    "shared_layers": 0,
    "expected_error": 0.0,
    "score_window": 1,
    "lr": 1e-4,
    "lr_schedule": "constant",
}
"""Arguments of the paper that are not the defaults: with them, descriptors, loss and scores are those of eqs. 7 to 12.

``output_stride=1`` and ``training_mode="dense"`` compute them at every pixel."""
BEFORE_NAMED: Mapping[str, Any] = {
    name: PAPER[name]
    for name in (
        "architecture",
        "hard_fraction",
        "light_jitter",
        "synthetic_defects",
        "shared_layers",
        "expected_error",
        "score_window",
    )
}
"""Values for checkpoints that were saved before these arguments existed."""

SCORED_AS_SAVED = ("score_window", "shared_layers", "expected_error")
"""Arguments that are always those of the checkpoint."""
MODEL_ARGUMENTS = (
    "patch_sizes",
    "n_students",
    "output_stride",
    "training_mode",
    "descriptor_dim",
    "max_tile",
    "architecture",
    "hard_fraction",
    "light_jitter",
    "synthetic_defects",
    "shared_layers",
    "score_window",
)
"""Arguments of the torch model."""


class UninformedStudents(Detector, AnomalibModule):
    """Lightning module of the student-teacher ensembles of Bergmann et al. (CVPR 2020).

    Args:
        patch_sizes: Sides p of the receptive fields in pixels. The scores of several are averaged.
        image_size: Side in pixels of the square that images are resized to, unless there is a ``pre_processor``.
        n_students: Number M of students for each patch size. One student errs on defects as three do, at half the cost;
            several also disagree (eq. 10).
        output_stride: Distance in pixels between scored pixels at inference: 1, 2, 4 or 8. The others are interpolated.
        training_mode: ``"dense"`` trains on every pixel of an image in each step, as the paper; ``"phase"`` on a random
            sample of them, at a fraction of the cost.
        teacher: ``"bundled"`` for the teachers that come with the package, the path of a teacher file, or a mapping
            from patch size to either. ``None`` leaves the teachers without weights, for a checkpoint to fill in.
        descriptor_dim: Dimension d of the descriptors, as the teachers were trained with.
        architecture: ``"medium"`` for deep networks of p = 33 and 65 with the best teachers, ``"light"`` for the
            cheapest networks, ``"paper"`` for the paper's; the latter two also have p = 17.
        max_tile: Largest side in pixels of what is scored at once, which bounds the memory. Larger images are scored in
            tiles, with the same scores as in one piece.
        hard_fraction: Fraction of the pixels of a training step, in ``(0, 1]``, that the loss is the mean of: the
            hardest. 1 for all, as in eq. 7.
        light_jitter: Strength of random changes of contrast, brightness, colour and exposure in training, so that a
            drift of the light is no defect; 0 for none, as in the paper.
        synthetic_defects: Fraction of the training images, in ``[0, 1]``, that are painted with synthetic defects for
            only the students. Asked for what the teacher sees without them, the students do not learn to imitate it on
            defects; 0 for none, as in the paper.
        shared_layers: First layers of the teacher, whose output the students continue from, which saves a third of the
            training time; 0 for none, as in the paper.
        expected_error: Fraction in ``[0, 1]``, that is subtracted, of the regression error that a linear model predicts
            from the teacher's descriptor, so that hard places of good images are no anomalies; 0 for none, as in eq.
            11.
        score_window: Side in pixels, an odd number, of the window whose largest mean score is the score of the image;
            1 for the maximum of the map.
        lr: Learning rate of Adam.
        lr_schedule: ``"cosine"`` to let it decay to zero over the training, or ``"constant"`` as the paper.
        weight_decay: Weight decay of Adam.
        normalization_split: Fraction of the anomaly-free training images that is held out for the statistics of eq. 11
            and for the threshold; at least ten, or a quarter of fewer than forty.
        pre_processor: Pre-processor, or ``True`` for resizing to ``image_size`` and ImageNet normalisation.
        post_processor: Post-processor, or ``True`` for thresholds from held-out good images, see
            :class:`~anomalib_students.model.post_processor.FalseAlarmPostProcessor`.
        evaluator: Evaluator, or ``True`` for AUROC and F1 of images and pixels, and AUPRO up to a false positive rate
            of 0.3.
        visualizer: Visualizer, or ``True`` for anomalib's default.

    Attributes:
        named_by_user: Names of the trainer's arguments that the user has given a value. A trainer does not tell them
            from its own defaults. Without ``max_epochs``, ``max_steps`` and ``max_time``, the training lasts as many
            epochs as show 15,000 images; without ``precision``, its steps compute in bfloat16 where the device does so
            natively; and without ``val_check_interval``, the only validation is that of the final students.

    Raises:
        ValueError: If an argument is out of range, or a teacher does not fit ``patch_sizes``, ``descriptor_dim``
            and ``architecture``.
        FileNotFoundError: If a teacher file does not exist.

    Example:
        >>> model = UninformedStudents(patch_sizes=(33,), n_students=2, output_stride=8)
        >>> model.model.patch_sizes
        (33,)
    """

    before_named: ClassVar[Mapping[str, Any]] = BEFORE_NAMED
    checked_arguments: ClassVar[tuple[str, ...]] = (
        "patch_sizes",
        "n_students",
        "descriptor_dim",
        "architecture",
    )
    saved_arguments: ClassVar[Mapping[str, Any]] = {"teacher": None}
    paper_epochs: ClassVar[int] = PAPER_EPOCHS

    def __init__(
        self,
        patch_sizes: Sequence[int] = (65,),
        image_size: int = IMAGE_SIZE,
        n_students: int = 1,
        output_stride: int = 4,
        training_mode: TrainingMode = "phase",
        teacher: str | Mapping[int, str] | None = BUNDLED,
        descriptor_dim: int = 128,
        architecture: Architecture = "medium",
        max_tile: int = 512,
        hard_fraction: float = 0.1,
        light_jitter: float = 1.0,
        synthetic_defects: float = 0.5,
        shared_layers: int = 2,
        expected_error: float = 0.25,
        score_window: int = 33,
        lr: float = 1e-3,
        lr_schedule: LearningRateSchedule = "cosine",
        weight_decay: float = 1e-5,
        normalization_split: float = 0.1,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if image_size < 1:
            msg = f"image_size must be a positive number of pixels, got {image_size}."
            raise ValueError(msg)
        super().__init__(
            pre_processor=self.configure_pre_processor((image_size,) * 2) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model: UninformedStudentsModel = self._create_model()
        if lr <= 0 or weight_decay < 0:
            msg = f"lr must be positive and weight_decay not negative, got lr={lr} and weight_decay={weight_decay}."
            raise ValueError(msg)
        if not 0 <= expected_error <= 1:
            msg = f"expected_error must lie in [0, 1], got {expected_error}."
            raise ValueError(msg)
        if lr_schedule not in get_args(LearningRateSchedule):
            msg = f"lr_schedule must be one of {get_args(LearningRateSchedule)}, got {lr_schedule!r}."
            raise ValueError(msg)
        if teacher is not None:
            for scale in self.model.scales:
                path = teacher_path(teacher, scale.patch_size, architecture)
                scale.teacher = load_teacher(path, scale.patch_size, descriptor_dim, architecture)
        self.lr = lr
        self.expected_error = expected_error
        self.lr_schedule = lr_schedule
        self.weight_decay = weight_decay
        self.normalization_split = NormalizationSplit(normalization_split)
        self.named_by_user: Set[str] = frozenset()
        self._steps: float = inf
        self._scores_normalised_at: int | None = None
        self._unusual: list[str] = []

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add the hold-out of images, the state of random numbers, the status after SIGTERM, and the remaining time."""
        callbacks = [*super().configure_callbacks(), self.normalization_split, RandomState(), Termination()]
        if self.trainer.state.fn != TrainerFn.FITTING:
            return callbacks
        regular = RegularCheckpoint.instead_of_default(self.trainer)
        validation = [] if "val_check_interval" in self.named_by_user else [LastValidation()]
        return [*callbacks, TrainingTime(), *validation, *regular]

    def on_fit_start(self) -> None:
        """Compute the statistics of the teacher's descriptors, unless a checkpoint contains them."""
        self._scores_normalised_at = None
        if self.trainer.ckpt_path is None:
            self._normalise_descriptors()

    def on_train_start(self) -> None:
        """Set the length of a training whose length is open, now that the number of images is known."""
        trainer = self.trainer
        if has_open_length(trainer, self.named_by_user):
            images = trainer.num_training_batches * trainer.world_size
            trainer.fit_loop.max_epochs = ceil(TRAINING_IMAGES / images)
            rank_zero_info(f"The training lasts {trainer.max_epochs} epochs of {images} images.")
        self._steps = trainer.estimated_stepping_batches
        if self._steps == inf and self.lr_schedule == "cosine":
            logger.warning("The learning rate stays constant: to decay, it needs max_epochs or max_steps.")

    def on_train_batch_start(self, *_: Any) -> None:
        """Set the learning rate of the step."""
        factor = 1.0
        if self.lr_schedule == "cosine" and self._steps < inf:
            factor = cosine_with_warm_up(self.global_step, self._steps, min(WARM_UP_STEPS, self._steps / 20))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr * factor

    def training_step(self, batch: Batch) -> STEP_OUTPUT:
        """Compute the students' loss (eq. 7) of a batch with images of shape ``(B, 3, H, W)``."""
        images = cast("torch.Tensor", batch.image).as_subclass(torch.Tensor)
        with self._training_precision():
            loss = self.model(images)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, logger=True, batch_size=len(images))
        return {"loss": loss}

    def on_validation_start(self) -> None:
        """Normalise the scores and choose their threshold by the held-out images."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._normalise_scores()
        else:
            self._choose_threshold()

    def on_train_end(self) -> None:
        """Normalise the scores with the final students, unless a validation has done so, and log the decision."""
        self._normalise_scores()
        if isinstance(self.post_processor, FalseAlarmPostProcessor):
            rank_zero_info(self.post_processor.decision)
        if self._unusual:
            rank_zero_warn(
                f"These training images score far from all other good ones. See whether they are good: "
                f"{', '.join(self._unusual)}. They have no part in the threshold."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the statistics of the scores of the students as they are now; all processes take part."""
        if self.trainer.state.fn == TrainerFn.FITTING and self.normalization_split.held_out is not None:
            self._normalise_scores()
            # The weights are those of the checkpoint already; some strategies have copied them.
            state = checkpoint["state_dict"]
            state.update({name: value for name, value in self.named_buffers() if name in state})
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what the user has not named from the checkpoint, so that its model is scored as it was.

        Raises:
            ValueError: If an argument that the weights depend on is named, and another one in the checkpoint.
        """
        super().on_load_checkpoint(checkpoint)
        saved = {**BEFORE_NAMED, **checkpoint.get("hyper_parameters", {})}
        taken = {
            name: saved[name]
            for name in (*MODEL_ARGUMENTS, "expected_error")
            if name in saved and (name in SCORED_AS_SAVED or not self.is_named(name))
        }
        if any(plain(self.hparams[name]) != plain(value) for name, value in taken.items()):
            self.hparams.update(taken)
            self.expected_error = self.hparams["expected_error"]
            self.model = self._create_model()
        with suppress(RuntimeError):
            # Data sets resize as the pre-processor did before it was restored. Without a trainer there are none.
            if isinstance(datamodule := getattr(self.trainer, "datamodule", None), AnomalibDataModule):
                datamodule.setup(self.trainer.state.fn)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam over the students; :meth:`on_train_batch_start` sets its learning rate."""
        return torch.optim.Adam(
            (parameter for parameter in self.model.parameters() if parameter.requires_grad),
            lr=self.lr,
            weight_decay=self.weight_decay,
        )

    @property
    def needs_validation(self) -> bool:
        """Whether the threshold or a metric comes from validation images; data modules may leave them out otherwise."""
        by_good_images = (
            isinstance(self.post_processor, FalseAlarmPostProcessor) and self.post_processor.threshold != "f1"
        )
        return not by_good_images or len(getattr(self.evaluator, "val_metrics", ())) > 0

    def configure_post_processor(self) -> PostProcessor:
        """Configure thresholds for a false alarm on 1 % of the good images, chosen by the held-out ones."""
        return FalseAlarmPostProcessor()

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure antialiased resizing, by default to the default ``image_size``, and ImageNet normalisation."""
        return AnomalibModule.configure_pre_processor(image_size or (IMAGE_SIZE, IMAGE_SIZE))

    def _create_model(self) -> UninformedStudentsModel:
        return UninformedStudentsModel(**{name: self.hparams[name] for name in MODEL_ARGUMENTS})

    def complete_trainer_settings(self, settings: Mapping[str, Any]) -> None:
        """Note which arguments of the trainer the user has named."""
        self.named_by_user = {name for name, value in settings.items() if value is not None}

    def _training_precision(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 if that is native and the user has not named a precision."""
        if "precision" not in self.named_by_user and self.trainer.precision == "32-true" and has_bfloat16(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @torch.no_grad()
    def _normalise_descriptors(self) -> None:
        """Compute mean and standard deviation of the teachers' descriptors over a sample of the training images."""
        scales = self.model.scales
        statistics = [RunningStatistics(scale.descriptor_mean.numel()) for scale in scales]
        sizes = set()
        for number, images in self._images(self.normalization_split.training, "Descriptors of training images"):
            sizes.add(images.shape[-2:])
            # In the light of the training: otherwise components that follow it would count as nearly constant. The same
            # light for an image with any number of workers.
            jittered = self.model.jitter(images, seed=number)
            for scale, of_scale in zip(scales, statistics, strict=True):
                for tile in self.model.tiles(scale, jittered):
                    of_scale.update(scale.descriptor_vectors(tile, self.model.output_stride))
        for scale, of_scale in zip(scales, statistics, strict=True):
            scale.normalise_descriptors(self._merge_over_workers(of_scale))
        if len(sizes) > 1:
            rank_zero_warn("The images differ in size, and are not resized: a test can't measure AUPRO, which is NaN.")

    @torch.no_grad()
    def _normalise_scores(self) -> None:
        """Compute mean and standard deviation of the scores over the held-out images (eq. 11)."""
        if self._scores_normalised_at == self.global_step:
            return
        scales = self.model.scales
        statistics = [RunningStatistics(len(scale.error_weight) + 2, covariance=True) for scale in scales]
        for _, images in self._images(self.normalization_split.held_out, "Scores of held-out images"):
            for scale, of_scale in zip(scales, statistics, strict=True):
                for tile in self.model.tiles(scale, images):
                    of_scale.update(scale.score_vectors(tile, self.model.output_stride))
        for scale, of_scale in zip(scales, statistics, strict=True):
            scale.normalise_scores(self._merge_over_workers(of_scale), self.expected_error)
        self._scores_normalised_at = self.global_step
        self._choose_threshold()

    @torch.no_grad()
    def _choose_threshold(self) -> None:
        """Choose the threshold by the scores of the held-out images, if there are any."""
        held_out = self.normalization_split.held_out
        if held_out is None or not isinstance(self.post_processor, FalseAlarmPostProcessor):
            return
        # Each worker fills in the scores of its images.
        scores = torch.zeros(len(held_out), device=self.device)
        for number, images in self._images(held_out, "Threshold by held-out images"):
            scores[number] = cast("torch.Tensor", self.model.predict(images).pred_score)
        if self.trainer.world_size > 1:
            scores = cast("torch.Tensor", self.all_gather(scores)).sum(dim=0)
        usual = self.post_processor.choose(scores.cpu()).tolist()
        paths = held_out.samples.image_path
        self._unusual = [str(path) for path, is_usual in zip(paths, usual, strict=True) if not is_usual]

    def _merge_over_workers(self, statistics: RunningStatistics) -> RunningStatistics:
        """Join the statistics of all workers' shares of the images."""
        if self.trainer.world_size == 1:
            return statistics
        total = RunningStatistics(len(statistics.mean), statistics.has_products)
        total.merge(cast("torch.Tensor", self.all_gather(statistics.moments.to(self.device))).cpu())
        return total

    def _images(self, dataset: AnomalibDataset | None, description: str) -> Iterator[tuple[int, torch.Tensor]]:
        """Iterate over this worker's share of a sample of a data set: indices, and pre-processed images, one at a time.

        Raises:
            SIGTERMException: If the process is to end.
        """
        if dataset is None:
            msg = "The statistics can be computed only while the model is fitted."
            raise RuntimeError(msg)
        sample = sample_indices(len(dataset))[self.global_rank :: self.trainer.world_size]
        # Tiled ensembles have one that cuts tiles out of the images.
        datamodule = cast("AnomalibDataModule", getattr(self.trainer, "datamodule", None))
        collate = datamodule.external_collate_fn or dataset.collate_fn
        loader = DataLoader(Subset(dataset, sample), collate_fn=collate, generator=torch.Generator())
        bar = tqdm(loader, description, leave=False, disable=self.global_rank > 0)
        for index, batch in zip(sample, bar, strict=True):
            if self.trainer.received_sigterm:
                raise SIGTERMException
            images = batch.image.to(self.device)
            if isinstance(self.pre_processor, PreProcessor) and self.pre_processor.transform is not None:
                images = self.pre_processor.transform(images)
            with self.trainer.precision_plugin.forward_context():
                yield index, images
