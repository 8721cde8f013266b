"""Train a model in this process, from its last checkpoint if there is one, and test it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from anomalib_students.engine.checkpoint_io import CheckpointIO
from anomalib_students.engine.termination import HowToResume
from anomalib_students.model.metrics import create_metrics
from anomalib_students.user_errors import LIGHTNING, only_warnings_of

from .jobs import Compute, OnProgress

__all__ = ["MODEL", "quiet_trainer", "test_model", "train_and_test"]

MODEL = "model.ckpt"
"""Checkpoint of a trained model, in the folder of its job."""
LAST = "last"


class Progress(Callback):
    """Report the progress of a training, and measure its time over all attempts."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._before = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of the training, including those before the checkpoint from which it was resumed."""
        return self._before + time.monotonic() - self._start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the part of the epochs that is done."""
        del pl_module
        self._on_progress((trainer.current_epoch + 1) / max(1, trainer.max_epochs or 1))

    def state_dict(self) -> dict[str, Any]:
        """Keep the time in the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume with the time of a checkpoint."""
        self._before = state_dict["seconds"]


def quiet_trainer(model: AnomalibModule, plugins: Sequence[Any] = (), **arguments: Any) -> Trainer:
    """Make a trainer without bars and logs, whose arguments are overridden by the model's own."""
    return Trainer(
        plugins=[CheckpointIO(list(model.checkpoint_safe_globals())), *plugins],
        **{
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **arguments,
            **model.trainer_arguments,
        },
    )


# Lightning would list the devices for each of many trainings.
@only_warnings_of(LIGHTNING)
def train_and_test(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    folder: Path,
    epochs: int | None,
    precision: str,
    compute: Compute,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train a model and test it; return metrics, seconds and machine.

    Models that train for several epochs are resumed from the last one; those of one pass begin again. There is no
    validation, which only sets the threshold and the range of scores: the metrics depend on the order of scores alone.
    ``epochs`` None stands for those of the model's paper.
    """
    paper_epochs = getattr(model, "paper_epochs", None)
    progress = Progress(on_progress)
    callbacks: list[Callback] = [progress, HowToResume("Resume the experiment with --resume true.")]
    if paper_epochs:
        callbacks.append(
            ModelCheckpoint(folder, filename=LAST, save_on_train_epoch_end=True, enable_version_counter=False)
        )
    trainer = quiet_trainer(
        model,
        **_arguments(folder, precision, compute),
        max_epochs=epochs or paper_epochs,
        callbacks=callbacks,
        enable_checkpointing=bool(paper_epochs),
        limit_val_batches=0,
    )
    last = folder / f"{LAST}.ckpt"
    trainer.fit(model, datamodule=datamodule, ckpt_path=last if last.is_file() else None)
    seconds = progress.seconds
    if paper_epochs:
        # Without the state of the optimizer and the like.
        trainer.save_checkpoint(folder / MODEL, weights_only=True)
    outcome = test_model(model, datamodule, folder, precision, compute)
    last.unlink(missing_ok=True)
    return {**outcome, "seconds": {"training": round(seconds, 1), **outcome["seconds"]}}


@only_warnings_of(LIGHTNING)
def test_model(
    model: AnomalibModule, datamodule: AnomalibDataModule, folder: Path, precision: str, compute: Compute
) -> dict[str, Any]:
    """Test a model; return metrics, seconds and machine."""
    model.evaluator = Evaluator(test_metrics=create_metrics())
    # It would draw a picture of every test image.
    model.visualizer = None
    trainer = quiet_trainer(model, **_arguments(folder, precision, compute), enable_checkpointing=False)
    start = time.monotonic()
    (metrics,) = trainer.test(model, datamodule=datamodule, verbose=False)
    seconds = {"test": round(time.monotonic() - start, 1)}
    return {"metrics": dict(metrics), "seconds": seconds, "machine": _machine(trainer)}


# Pytest would collect it by its name.
test_model.__test__ = False  # type: ignore[attr-defined]


def _arguments(folder: Path, precision: str, compute: Compute) -> dict[str, Any]:
    return {"accelerator": compute.accelerator, "devices": 1, "precision": precision, "default_root_dir": folder}


def _machine(trainer: Trainer) -> dict[str, Any]:
    """Describe the machine that the trainer has used."""
    device = trainer.strategy.root_device
    return {
        "name": platform.node(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
