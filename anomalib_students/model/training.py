"""The training of the students: its length, learning rate and precision, and what is measured of it."""

import logging
from collections.abc import Sequence, Set
from contextlib import nullcontext
from math import ceil, inf
from typing import Any, cast

import torch
from anomalib.data import Batch, InferenceBatch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_students.data.data_check import ImageCheck
from anomalib_students.line.drift import statistics_of_files
from anomalib_students.muon import Muon
from anomalib_students.trainings import WEIGHT_DECAY, Termination, cosine_with_warm_up, has_bfloat16

from .calibration import normalise_descriptors, normalise_scores, scores_of, weigh_errors
from .callbacks import LastValidation, RandomState, RegularCheckpoint
from .hold_out import HoldOut
from .post_processor import FalseAlarmPostProcessor
from .settings import Settings
from .torch_model import UninformedStudentsModel

logger = logging.getLogger(__name__)

TRAINING_IMAGES = 3_300
"""Images that a training of open length shows to the students, one a step: minutes on two cores."""
DEFAULT_EPOCHS = 1000  # Epochs of Lightning's trainer without ``max_epochs``.
WARM_UP_STEPS = 100
"""Most steps in which the learning rate rises, because the first gradients would lead the students astray."""


class StudentTraining(LightningModule):
    """Mixin of anomalib models: train students on good images, and choose a threshold by held-out ones.

    Attributes:
        named_by_user: Names of the trainer's arguments that the user has given a value. Without ``max_epochs``,
            ``max_steps`` and ``max_time``, the training shows 3,300 images; without ``precision``, its steps compute in
            bfloat16 where the device does so natively; and without ``val_check_interval``, the only validation is that
            of the final students.
    """

    settings: Settings
    model: UninformedStudentsModel
    hold_out: HoldOut
    named_by_user: Set[str] = frozenset()
    _steps: float = inf
    _calibrated_at: int | None = None
    _unusual: Sequence[str] = ()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add what a training needs beside anomalib's callbacks; data are checked before images are held out."""
        components = cast("Sequence[Callback]", super().configure_callbacks())
        callbacks = [ImageCheck(), *components, self.hold_out, RandomState(), Termination()]
        if self.trainer.state.fn != TrainerFn.FITTING:
            return callbacks
        regular = RegularCheckpoint.instead_of_default(self.trainer)
        validation = [] if "val_check_interval" in self.named_by_user else [LastValidation()]
        return [*callbacks, *validation, *regular]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure the optimizer of the students; :meth:`on_train_batch_start` sets its learning rate."""
        students = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(students, lr=self.settings.lr, weight_decay=WEIGHT_DECAY)
        return Muon(students, lr=self.settings.lr)

    def on_fit_start(self) -> None:
        """Compute the statistics of the teacher's descriptors, unless a checkpoint contains them."""
        self._calibrated_at = None
        if self.trainer.ckpt_path is None and self.hold_out.training is not None:
            normalise_descriptors(self, self.hold_out.training)

    def on_train_start(self) -> None:
        """Set the length of a training whose length is open, now that the number of images is known."""
        trainer = self.trainer
        has_timer = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        is_bounded = "max_epochs" in self.named_by_user or trainer.max_epochs != DEFAULT_EPOCHS
        if not (is_bounded or has_timer or trainer.max_steps != -1):
            trainer.fit_loop.epoch_loop.max_steps = ceil(TRAINING_IMAGES / trainer.world_size)
            trainer.fit_loop.max_epochs = ceil(trainer.max_steps / trainer.num_training_batches)
            rank_zero_info(f"The training shows {TRAINING_IMAGES} images, in {trainer.max_epochs} epochs.")
        decays = self.settings.lr_schedule == "cosine"
        self._steps = trainer.estimated_stepping_batches if decays else inf
        if self._steps == inf and decays:
            logger.warning("The learning rate stays constant: to decay, it needs max_epochs or max_steps.")

    def on_train_batch_start(self, *_: Any) -> None:
        """Set the learning rate of the step."""
        factor = 1.0
        if self._steps < inf:
            factor = cosine_with_warm_up(self.global_step, self._steps, min(WARM_UP_STEPS, self._steps / 20))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.settings.lr * factor

    def training_step(self, batch: Batch) -> STEP_OUTPUT:
        """Compute the students' loss (eq. 7) of a batch with images of shape ``(B, 3, H, W)``."""
        images = cast("torch.Tensor", batch.image)
        is_open = "precision" not in self.named_by_user and self.trainer.precision == "32-true"
        in_bfloat16 = torch.autocast(self.device.type, torch.bfloat16)
        with in_bfloat16 if is_open and has_bfloat16(self.device) else nullcontext():
            loss = self.model(images)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, batch_size=len(images))
        return {"loss": loss}

    def on_validation_start(self) -> None:
        """Normalise the scores of students in training, and choose their threshold, by the held-out images."""
        self._calibrate()

    def on_train_end(self) -> None:
        """Normalise the scores of the final students, unless a validation has done so, and log the decision."""
        self._calibrate()
        if isinstance(self.post_processor, FalseAlarmPostProcessor):
            rank_zero_info(self.post_processor.decision)
        if self._unusual:
            found = f"These training images score far from all other good ones: {', '.join(self._unusual)}."
            rank_zero_warn(f"{found} See whether they are good. They do not count for the threshold.")

    def _calibrate(self) -> None:
        """Normalise the scores if the students have learnt since, and choose the threshold, by the held-out images."""
        samples = self.hold_out.samples
        is_fitting = self.trainer.state.fn == TrainerFn.FITTING
        if not samples or (is_fitting and self._calibrated_at == self.global_step):
            return
        held_out, learnt, seen = samples
        if is_fitting:
            weigh_errors(self, seen)
            normalise_scores(self, held_out)
            self._calibrated_at = self.global_step
        if isinstance(self.post_processor, FalseAlarmPostProcessor):
            scores, paths = scores_of(self, held_out), held_out.samples.image_path.astype(str)
            usual = self.post_processor.choose(scores, scores_of(self, learnt))
            self._unusual = paths[~usual.numpy()].tolist()
            normalised = self.post_processor(InferenceBatch(pred_score=scores[usual].to(self.device))).pred_score
            good = dict(zip(paths[usual.numpy()], normalised.tolist(), strict=True))
            self.post_processor.statistics = statistics_of_files(good)
