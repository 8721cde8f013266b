"""Callbacks: when a training is validated and saved, how it is resumed, and which pictures a test writes."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from PIL import Image
from torchvision.transforms.v2.functional import to_image

from anomalib_students.image_files import read_rgb

SECONDS_BETWEEN_SAVES = 60  # Least time between two checkpoints.
SHARE_OF_SAVES = 0.1  # Largest fraction of a training's time that checkpoints take.


class RegularCheckpoint(ModelCheckpoint):
    """Save a checkpoint at the end of an epoch, unless the last one was saved shortly before.

    A killed training loses no more than an epoch and a minute, or ten times as long as a checkpoint takes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, auto_insert_metric_name=False, **arguments)
        self._next_save = -math.inf

    @property
    def state_key(self) -> str:
        """Name in checkpoints: that of anomalib's callback, which tests and predictions have in its place."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__)

    @classmethod
    def instead_of_default(cls, trainer: Trainer) -> list[Callback]:
        """Create one in place of that of anomalib's engine, unless the user has callbacks that save or stop."""
        found = _saving_or_stopping(trainer)
        default = found[0] if len(found) == 1 else None
        if type(default) is not ModelCheckpoint or default.save_top_k != 1:
            return []
        if default.monitor or default.save_last or default.auto_insert_metric_name:
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
    """Validate only at the end of a training: only the final students need a threshold and a range of the scores.

    Nothing changes if the user has callbacks that stop or save by it, or another ``check_val_every_n_epoch`` than 1.
    """

    _is_put_off = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the validation off."""
        others = [callback for callback in _saving_or_stopping(trainer) if not isinstance(callback, RegularCheckpoint)]
        if trainer.check_val_every_n_epoch == 1 and not others:
            self._is_put_off = True
            trainer.check_val_every_n_epoch = sys.maxsize

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Validate after the last step, which need not be that of an epoch."""
        if self._is_put_off and _ends(trainer):
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = trainer.current_epoch + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        if self._is_put_off:
            trainer.check_val_every_n_epoch = 1
        self._is_put_off = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the trainer as it was."""
        self.on_train_end(trainer, pl_module)


class RandomState(Callback):
    """Keep the state of torch's random numbers in checkpoints, so that a resumed training equals an uninterrupted one.

    The order of the images, their augmentation and the phases that are trained on are drawn from it.
    """

    _resumed: torch.Tensor | None = None

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
        """Restore the state again if the first epoch draws anew, as after a checkpoint written by a validation."""
        if not trainer.fit_loop.is_resuming:
            self._restore()
        self._resumed = None

    def _restore(self) -> None:
        if self._resumed is not None:
            torch.set_rng_state(self._resumed.cpu())


class PictureWriter(ImageVisualizer):
    """anomalib's visualizer, which shows grey images of 16 bits and turned ones as the model has seen them."""

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:  # noqa: ANN401
        """Write a picture of each image of a batch into the folder ``images`` of the results."""
        if self.output_dir is None:
            self.output_dir = Path(trainer.default_root_dir) / "images"
        datamodule = getattr(trainer, "datamodule", None)
        name, category = (getattr(datamodule, attribute, None) for attribute in ("name", "category"))
        for item in batch:
            if path := item.image_path:
                # From a path, anomalib would read the image itself.
                image = to_image(read_rgb(path).resize(self.field_size))
                item = item.update(in_place=False, image=image, image_path=None)  # noqa: PLW2901
            picture = self.visualize(item)
            if isinstance(picture, Image.Image):
                picture.save(generate_output_filename(path or "", self.output_dir, name, category))


def _saving_or_stopping(trainer: Trainer) -> list[Callback]:
    """List the callbacks of a trainer that save checkpoints or stop the training."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Checkpoint | EarlyStopping)]


def _ends(trainer: Trainer) -> bool:
    """Whether a training ends with the current step."""
    is_last = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return is_last or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
