"""Defaults of the trainer: how long our models train, and when they are validated and saved."""

import math
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from anomalib.callbacks.checkpoint import ModelCheckpoint
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

__all__ = ["RegularCheckpoint", "has_open_length", "train_for", "validate_and_save"]

SECONDS_BETWEEN_SAVES = 60
"""Least time between two checkpoints."""
SHARE_OF_SAVES = 0.1
"""Largest part of a training's time that checkpoints take. Each costs two passes over the held-out images."""


class RegularCheckpoint(ModelCheckpoint):
    """Save a checkpoint at the end of an epoch, unless the last one was saved shortly before.

    A killed training loses no more than an epoch and a minute, or ten times as long as a checkpoint takes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, **arguments)
        self._next_save = -math.inf

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a checkpoint if it is time, or the training ends."""
        start = time.monotonic()
        # All processes take part in a checkpoint, and their clocks differ.
        if trainer.strategy.broadcast(start >= self._next_save or _ends(trainer)):
            super().on_train_epoch_end(trainer, pl_module)
            end = time.monotonic()
            self._next_save = end + max(SECONDS_BETWEEN_SAVES, (end - start) / SHARE_OF_SAVES)


def has_open_length(settings: Mapping[str, Any]) -> bool:
    """Whether arguments of a trainer bound neither epochs nor steps nor time."""
    unlimited = settings.get("max_epochs") is None and settings.get("max_time") is None
    return unlimited and settings.get("max_steps") in {None, -1}


def validate_and_save(settings: MutableMapping[str, Any]) -> bool:
    """Complete a trainer's arguments: validate after the last epoch alone, and save checkpoints regularly.

    A validation measures the threshold and the range of the scores, which only the final students need. If the user has
    callbacks that stop or save by what it measures, nothing changes; ``val_check_interval=1.0`` validates after every
    epoch. Returns whether to validate after the last epoch alone.
    """
    callbacks = settings["callbacks"]
    if any(isinstance(callback, Checkpoint | EarlyStopping) for callback in callbacks):
        return False
    if not settings.get("barebones"):
        folder = settings["default_root_dir"] / "weights" / "lightning"
        settings["callbacks"] = [
            *callbacks,
            RegularCheckpoint(dirpath=folder, filename="model", auto_insert_metric_name=False),
        ]
    # Lightning's default and a user's 1 can't be distinguished.
    if settings.get("check_val_every_n_epoch", 1) != 1 or settings.get("val_check_interval") is not None:
        return False
    if (settings.get("max_epochs") or 0) > 0:
        settings["check_val_every_n_epoch"] = settings["max_epochs"]
    return True


def train_for(trainer: Trainer, steps: int, validate_once: bool) -> None:
    """Set the length of a training whose data are known: it ends with the epoch that reaches ``steps``."""
    trainer.fit_loop.setup_data()
    epochs = math.ceil(steps * trainer.accumulate_grad_batches / max(1, trainer.num_training_batches))
    trainer.fit_loop.max_epochs = epochs
    if validate_once:
        trainer.check_val_every_n_epoch = epochs


def _ends(trainer: Trainer) -> bool:
    """Whether a training ends with the current epoch."""
    is_last = trainer.current_epoch + 1 == trainer.max_epochs
    return is_last or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
