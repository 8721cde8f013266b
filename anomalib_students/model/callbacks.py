"""Callbacks of a training: when it is validated and saved, how long it takes, and how it is resumed."""

import logging
import math
import sys
import time
from collections.abc import Set
from datetime import timedelta
from typing import Any, TypeGuard, cast

import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer

__all__ = ["LastValidation", "RandomState", "RegularCheckpoint", "TrainingTime", "has_open_length"]

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 1000
"""Epochs of Lightning's trainer without ``max_epochs``."""
SECONDS_BETWEEN_SAVES = 60
"""Least time between two checkpoints."""
SHARE_OF_SAVES = 0.1
"""Largest fraction of a training's time that checkpoints take. Each costs two passes over the held-out images."""
STEPS_BEFORE = 2
"""Slow first steps, which are not counted."""
LEAST_STEPS = 10
LEAST_SECONDS = 30.0
"""Counted steps, or seconds, before the first estimate."""
LONG = 3600.0
"""Seconds from which on a training is worth a warning."""


class RegularCheckpoint(ModelCheckpoint):
    """Save a checkpoint at the end of an epoch, unless the last one was saved shortly before.

    A killed training loses no more than an epoch and a minute, or ten times as long as a checkpoint takes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, auto_insert_metric_name=False, **arguments)
        self._next_save = -math.inf

    @classmethod
    def instead_of_default(cls, trainer: Trainer) -> list[Callback]:
        """Create one in place of that of anomalib's engine, unless the user has callbacks that save or stop."""
        found = _saving_or_stopping(trainer)
        default = found[0] if len(found) == 1 else None
        if not _is_default(default):
            return []
        trainer.callbacks.remove(default)  # type: ignore[attr-defined]
        return [cls(dirpath=default.dirpath, filename=default.filename)]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a checkpoint if it is time, or the training ends."""
        start = time.monotonic()
        # All processes take part in a checkpoint, and their clocks differ.
        if trainer.strategy.broadcast(start >= self._next_save or _ends(trainer)):
            super().on_train_epoch_end(trainer, pl_module)
            end = time.monotonic()
            self._next_save = end + max(SECONDS_BETWEEN_SAVES, (end - start) / SHARE_OF_SAVES)


class LastValidation(Callback):
    """Validate only at the end of a training, however its length is given.

    A validation measures the threshold and the range of the scores, which only the final students need. Nothing changes
    if the user has callbacks that stop or save by what it measures, or another ``check_val_every_n_epoch`` than 1.
    """

    _every: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the validation off."""
        others = [callback for callback in _saving_or_stopping(trainer) if not isinstance(callback, RegularCheckpoint)]
        if trainer.check_val_every_n_epoch == 1 and not others:
            self._every = trainer.check_val_every_n_epoch
            trainer.check_val_every_n_epoch = sys.maxsize

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Validate after the last step, which need not be that of an epoch."""
        if self._every is not None and _ends(trainer):
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = trainer.current_epoch + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        if self._every is not None:
            trainer.check_val_every_n_epoch = self._every
        self._every = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the trainer as it was."""
        self.on_train_end(trainer, pl_module)


class RandomState(Callback):
    """Keep the state of torch's random numbers in checkpoints, and resume with it.

    The order of the images, their augmentation and the phases that are trained on are drawn from it. Without it, a
    resumed training would repeat the orders of its first epochs, or differ from one that was not interrupted.
    """

    def __init__(self) -> None:
        self._resumed: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Save the state of torch's random numbers on the CPU."""
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state at once: the data loader draws from it if the optimizers ask for the number of steps."""
        self._resumed = state_dict["torch"]
        self._restore()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state just before the data loader draws from it, unless it has drawn already."""
        if trainer.train_dataloader is None:
            self._restore()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state again if the first epoch draws the images anew.

        It does if the checkpoint was written by a validation: Lightning then ends that epoch before it starts the next.
        """
        if not trainer.fit_loop.is_resuming:
            self._restore()
        self._resumed = None

    def _restore(self) -> None:
        if self._resumed is not None:
            torch.set_rng_state(self._resumed.cpu())


class TrainingTime(Callback):
    """Show the remaining time of the whole training in the progress bar, and warn of a training of over an hour.

    The estimate counts only training steps, not statistics and validation. A training without an end has none.
    """

    def __init__(self) -> None:
        self._started = self._measured_from = time.monotonic()
        self._steps = 0
        self._has_estimate = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to measure."""
        self._started = self._measured_from = time.monotonic()
        self._steps = 0
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
        self._steps += 1
        if self._steps == STEPS_BEFORE:
            self._measured_from = now
        measured = self._steps - STEPS_BEFORE
        elapsed = now - self._measured_from
        if measured < 1 or (measured < LEAST_STEPS and elapsed < LEAST_SECONDS):
            return
        seconds_per_step = elapsed / measured
        steps_left = trainer.estimated_stepping_batches - trainer.global_step
        remaining = min(steps_left * seconds_per_step, _seconds_allowed(trainer))
        if not math.isfinite(remaining):
            return
        _show(trainer, str(timedelta(seconds=round(remaining))))
        total = now - self._started + remaining
        if total > LONG and not self._has_estimate:
            logger.warning(
                "This training is going to take about %.1f hours, at %.2g seconds a step. To make it shorter, set "
                "max_epochs, max_steps or max_time of the trainer.",
                total / 3600,
                seconds_per_step,
            )
        self._has_estimate = True


def has_open_length(trainer: Trainer, named: Set[str]) -> bool:
    """Whether neither epochs nor steps nor time bound a training; ``named`` has the arguments that the user has named.

    A trainer without them has 1000 epochs, as one with a user's 1000.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    unlimited = trainer.max_epochs == DEFAULT_EPOCHS and trainer.max_steps == -1 and "max_epochs" not in named
    return unlimited and not any(isinstance(callback, Timer) for callback in callbacks)


def _saving_or_stopping(trainer: Trainer) -> list[Callback]:
    """List the callbacks of a trainer that save checkpoints or stop the training."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Checkpoint | EarlyStopping)]


def _is_default(callback: Callback | None) -> TypeGuard[ModelCheckpoint]:
    """Whether a callback is the checkpoint that anomalib's engine adds if the user has none."""
    return (
        type(callback) is ModelCheckpoint
        and not (callback.monitor or callback.save_last or callback.auto_insert_metric_name)
        and callback.save_top_k == 1
    )


def _ends(trainer: Trainer) -> bool:
    """Whether a training ends with the current step."""
    is_last = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return is_last or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step


def _show(trainer: Trainer, remaining: str) -> None:
    """Show a text in the progress bar (`log` takes only numbers), first, because narrow terminals cut off the end."""
    metrics = cast("dict[str, Any]", trainer.progress_bar_metrics)
    others = {name: value for name, value in metrics.items() if name != "remaining"}
    metrics.clear()
    metrics.update({"remaining": remaining, **others})


def _seconds_allowed(trainer: Trainer) -> float:
    """Seconds that ``max_time`` leaves; infinite without it."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return min((seconds for seconds in left if seconds is not None), default=math.inf)
