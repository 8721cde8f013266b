"""How long a training is going to take: in the progress bar, and as a warning if it is long."""

import logging
import math
import time
from datetime import timedelta
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

__all__ = ["TrainingTime"]

logger = logging.getLogger(__name__)

STEPS_BEFORE = 2
"""Slow first batches, which are not counted."""
LEAST_STEPS = 10
LEAST_SECONDS = 30.0
"""Counted batches, or seconds, before the first estimate."""
LONG = 3600.0
"""Seconds from which on a training is worth a warning."""


class TrainingTime(Callback):
    """Show the remaining time of the whole training in the progress bar, and warn of a training of over an hour.

    The estimate counts only training steps, not statistics and validation. A training without an end has none.
    """

    def __init__(self) -> None:
        self._started = self._measured_from = time.monotonic()
        self._batches = 0
        self._has_estimate = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to measure."""
        self._started = self._measured_from = time.monotonic()
        self._batches = 0
        self._has_estimate = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Estimate and show the remaining time."""
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        self._batches += 1
        if self._batches == STEPS_BEFORE:
            self._measured_from = now
        measured = self._batches - STEPS_BEFORE
        elapsed = now - self._measured_from
        if measured < 1 or (measured < LEAST_STEPS and elapsed < LEAST_SECONDS):
            return
        seconds_per_batch = elapsed / measured
        remaining = min(_batches_left(trainer) * seconds_per_batch, _seconds_allowed(trainer))
        if not math.isfinite(remaining):
            return
        _show(trainer, str(timedelta(seconds=round(remaining))))
        total = now - self._started + remaining
        if total > LONG and not self._has_estimate:
            logger.warning(
                "This training is going to take about %.1f hours, at %.2g seconds a step. To make it shorter, set "
                "max_epochs, max_steps or max_time of the trainer.",
                total / 3600,
                seconds_per_batch * trainer.accumulate_grad_batches,
            )
        self._has_estimate = True


def _show(trainer: Trainer, remaining: str) -> None:
    """Show a text in the progress bar (`log` takes only numbers), first, because narrow terminals cut off the end."""
    metrics = cast("dict[str, Any]", trainer.progress_bar_metrics)
    others = {name: value for name, value in metrics.items() if name != "remaining"}
    metrics.clear()
    metrics.update({"remaining": remaining, **others})


def _batches_left(trainer: Trainer) -> float:
    """Count the batches until the end of a training; infinite if it has none."""
    return (trainer.estimated_stepping_batches - trainer.global_step) * trainer.accumulate_grad_batches


def _seconds_allowed(trainer: Trainer) -> float:
    """Seconds that ``max_time`` leaves; infinite without it."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return min((seconds for seconds in left if seconds is not None), default=math.inf)
