"""How long our models train, and when they are validated and saved, where the user leaves it open."""

import math
import sys
import time
from collections.abc import Set
from typing import Any, TypeGuard

from anomalib.callbacks.checkpoint import ModelCheckpoint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer

__all__ = ["LastValidation", "RegularCheckpoint", "has_open_length"]

DEFAULT_EPOCHS = 1000
"""Epochs of Lightning's trainer without ``max_epochs``."""
SECONDS_BETWEEN_SAVES = 60
"""Least time between two checkpoints."""
SHARE_OF_SAVES = 0.1
"""Largest fraction of a training's time that checkpoints take. Each costs two passes over the held-out images."""


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
