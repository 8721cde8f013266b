"""What the pretraining tasks share: the run of Lightning with checkpoints and logs, and the teacher file."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import IterableDataset

from anomalib_students import __version__
from anomalib_students.engine.termination import Termination
from anomalib_students.files import AtomicCheckpointIO
from anomalib_students.model.patch_network import PatchNetwork

from .weights import save_teacher

__all__ = ["BatchNumbers", "FinishedRun", "fit"]

logger = logging.getLogger(__name__)


class BatchNumbers(IterableDataset):
    """Numbers of the batches that are still to draw; who knows the data draws them.

    Args:
        first: Number of the first batch.
        total: Batches in the whole run.
    """

    def __init__(self, first: int, total: int) -> None:
        self.first = first
        self.total = total

    def __iter__(self) -> Iterator[int]:
        """Count from the first batch to the last."""
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        """Count the batches of the whole run, those before the first too, as the progress bar does."""
        return self.total


@dataclass(frozen=True)
class FinishedRun:
    """A run that is at its last step.

    Attributes:
        steps: Number of its steps.
        world_size: Processes that took part, each with its own part of a batch.
        is_first_process: Whether this process is the one that writes files.
        measured: What the held-out images measure, by name.
    """

    steps: int
    world_size: int
    is_first_process: bool
    measured: Mapping[str, float]

    def write_teacher(self, teacher: PatchNetwork, output: Path, metadata: Mapping[str, str], licences: str) -> None:
        """Write the teacher file, in the first process alone.

        Args:
            teacher: The network.
            output: Path of the file.
            metadata: What to say of the pretraining; what was measured is added.
            licences: What to say of the licences of images and sources.

        Raises:
            OSError: If the file cannot be written.
            ValueError: If the weights are not finite in float16.
        """
        if not self.is_first_process:
            return
        measured = {name: f"{value:.4f}" for name, value in self.measured.items()}
        made_with = f"anomalib-students {__version__}"
        save_teacher(teacher, output, {**metadata, **measured, "licences": licences, "made_with": made_with})
        results = ", ".join(f"{name} {value:.3f}" for name, value in self.measured.items())
        logger.info("Wrote %s after %d steps: %s.", output, self.steps, results)


def fit(
    module: LightningModule,
    folder: Path,
    max_steps: int,
    checkpoint_every: int,
    resume: bool,
    trainer_arguments: Mapping[str, Any],
    datamodule: LightningDataModule | None = None,
    **arguments: Any,
) -> FinishedRun:
    """Train a module to its last step, and measure it there.

    Args:
        module: Module, whose validation logs what is measured, and whose hyperparameters a resumed run must have.
        folder: Folder for checkpoints and logs.
        max_steps: Training steps.
        checkpoint_every: Steps between two checkpoints and two measurements.
        resume: Whether to resume from the last checkpoint in the folder, if there is one.
        trainer_arguments: The user's arguments of Lightning's trainer, which come before all others; plugins and
            callbacks are added to those of this function.
        datamodule: Where the data come from, if not from the module.
        arguments: The task's arguments of Lightning's trainer.

    Returns:
        What there is to say of the run.

    Raises:
        OSError: If checkpoints or logs cannot be written.
        RuntimeError: If the run stops before its last step, or its checkpoint is damaged.
        ValueError: If the run to be resumed had other hyperparameters.
    """
    last = folder / "last.ckpt"
    is_resumed = resume and last.is_file()
    if is_resumed:
        # Before Lightning has the data prepared, which may take hours.
        _check_resumed_settings(AtomicCheckpointIO().load_checkpoint(last), module.hparams)
    more = dict(trainer_arguments)
    plugins = [AtomicCheckpointIO(), *more.pop("plugins", ())]
    callbacks = [
        ModelCheckpoint(folder, filename="last", every_n_train_steps=checkpoint_every, enable_version_counter=False),
        LearningRateMonitor("step"),
        Termination("Resume with --resume true."),
        *([RichProgressBar()] if more.get("enable_progress_bar", True) else []),
        *more.pop("callbacks", ()),
    ]
    all_arguments: dict[str, Any] = {
        "max_steps": max_steps,
        "val_check_interval": min(checkpoint_every, max_steps),
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": min(50, max(1, checkpoint_every // 5)),
        # Each process draws its own part of a batch.
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "logger": [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard")],
        **arguments,
        **more,
    }
    trainer = Trainer(plugins=plugins, callbacks=callbacks, **all_arguments)
    # Batches are drawn by their number, so Lightning's doubts about the data loader are unfounded.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", "Your `IterableDataset` has `__len__` defined")
    trainer.fit(module, datamodule=datamodule, ckpt_path=last if is_resumed else None)

    if trainer.global_step < max_steps:
        msg = f"Pretraining stopped after {trainer.global_step} of {max_steps} steps. Go on with --resume true."
        raise RuntimeError(msg)
    # Anew, since the last step need not be one at which the fit measures.
    (measured,) = trainer.validate(module, datamodule=datamodule, verbose=False)
    return FinishedRun(trainer.global_step, trainer.world_size, trainer.is_global_zero, measured)


def _check_resumed_settings(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to resume a run of other settings."""
    saved = checkpoint["hyper_parameters"]
    changed = [f"{name}={saved.get(name)}" for name, value in settings.items() if saved.get(name) != value]
    if changed:
        msg = f"The run to be resumed had other settings: {', '.join(changed)}. Resume it with these, or start anew."
        raise ValueError(msg)
