"""The same seed gives the same weights, and a resumed training those of one that was never interrupted."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torchvision.transforms.v2 import RandomHorizontalFlip

from .small import small_data, small_engine, small_model, weights_of


class Killed(BaseException):
    """What ends a training as abruptly as a signal does."""


class KillAfter(Callback):
    """Kill a training after the epoch of this number, whose checkpoint is written by then."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.current_epoch > self.epoch:
            raise Killed


@pytest.mark.parametrize(
    ("loading", "trainer", "model"),
    [
        ({}, {}, {}),
        # Checkpoints are then written by the validation, before the end of the epoch.
        ({}, {"check_val_every_n_epoch": 2}, {}),
        ({"train_augmentations": RandomHorizontalFlip()}, {"limit_val_batches": 0}, {}),
        # The schedule counts the batches, for which Lightning begins to draw images earlier.
        ({}, {}, {"lr_schedule": "cosine"}),
        ({"train_augmentations": RandomHorizontalFlip()}, {"limit_val_batches": 0}, {"lr_schedule": "cosine"}),
        ({}, {}, {"lr_schedule": "cosine", "light_jitter": 1.0, "hard_fraction": 0.5, "shared_layers": 1}),
    ],
    ids=["plain", "validated", "augmented", "cosine", "cosine and augmented", "all"],
)
def test_kill_and_resume_equals_the_uninterrupted_training(
    loading: dict, trainer: dict, model: dict, tmp_path: Path
) -> None:
    final = []
    for kill in (False, True):
        seed_everything(0, verbose=False)
        folder = tmp_path / str(kill)
        trainer = {"max_epochs": 4, **trainer}
        if kill:
            engine = small_engine(folder, **trainer, callbacks=[KillAfter(1)])
            with pytest.raises(Killed):
                engine.fit(small_model(**model), datamodule=small_data(tmp_path / "data", **loading))
            # Another process has another state of its random numbers.
            torch.manual_seed(12345)
        resumed = {"ckpt_path": engine.best_model_path} if kill else {}
        engine = small_engine(folder, **trainer)
        engine.fit(small_model(**model), datamodule=small_data(tmp_path / "data", **loading), **resumed)
        final.append(weights_of(engine.best_model_path))
    # On one machine they are the same bits; the tolerance is for libraries that choose their algorithms anew.
    torch.testing.assert_close(final[1], final[0], rtol=0, atol=1e-5)
