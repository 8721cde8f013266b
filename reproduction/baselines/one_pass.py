"""Training in one pass: collect descriptors of the training images, then fit a model of them."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from anomalib.data import Batch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_students.engine.termination import Termination
from anomalib_students.model.detector import Detector

from .descriptor_sample import DescriptorSample

__all__ = ["OnePassTraining"]


class OnePassTraining(Detector):
    """Mixin of anomalib models that are fitted to a sample of descriptors.

    The torch model has a method ``describe``, which turns images into descriptors, and a method ``fit``. Of the
    descriptors of all training images, ``n_samples`` are drawn uniformly.
    """

    n_samples: int
    _sample: DescriptorSample | None = None

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add the exit status after SIGTERM to anomalib's callbacks."""
        return [*super().configure_callbacks(), Termination("Start anew: training in one pass can't be resumed.")]

    def on_fit_start(self) -> None:
        """Begin a new sample of descriptors."""
        self._sample = DescriptorSample(self.n_samples)

    def training_step(self, batch: Batch) -> STEP_OUTPUT:
        """Let the descriptors of a batch take part in the sample.

        The loss is zero, for Lightning to count the step: the model is fitted when all descriptors are collected.
        """
        cast("DescriptorSample", self._sample).update(self.model.describe(batch.image))
        return torch.zeros((), device=self.device, requires_grad=True)

    def on_validation_start(self) -> None:
        """Fit the model before anomalib measures the range of the scores and the threshold."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._fit()

    def on_train_epoch_end(self) -> None:
        """Fit the model, if no validation has done so."""
        self._fit()

    @staticmethod
    def configure_optimizers() -> None:
        """Nothing is optimised by the trainer."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that the model depends on: one pass over the images, by one process.

        After the only epoch there must be a validation, which measures the range of the scores.
        """
        return {"max_epochs": 1, "check_val_every_n_epoch": 1, "num_sanity_val_steps": 0, "devices": 1}

    def _fit(self) -> None:
        if self._sample is not None:
            self.model.fit(self._sample.descriptors)
            self._sample = None
