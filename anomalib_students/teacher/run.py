"""The run that makes a teacher: training with checkpoints and logs, measurement, and the teacher file."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from anomalib_students import __version__
from anomalib_students.engine.atomic_checkpoints import AtomicCheckpointIO
from anomalib_students.engine.termination import Termination
from anomalib_students.files import check_output
from anomalib_students.networks.weights import check_metadata, save_teacher

from .images import find_images
from .settings import TeacherSettings
from .training import TeacherTraining

__all__ = ["check_run", "make_teacher"]

logger = logging.getLogger(__name__)


def check_run(settings: TeacherSettings, what: str, least: int) -> list[Path]:
    """Check what would otherwise fail after hours, and return the paths of the images."""
    check_output(settings.output, ".safetensors", "A teacher")
    check_metadata(settings.described, "The teacher to be written")
    paths = find_images(settings.images)
    if len(paths) < least:
        msg = f"{what} needs at least {least} images, {settings.images} has {len(paths)}."
        raise ValueError(msg)
    return paths


def make_teacher(
    module: TeacherTraining,
    metadata: Mapping[str, object],
    datamodule: LightningDataModule | None = None,
    **arguments: Any,
) -> Path:
    """Train a teacher to its last step, measure it there, and write its file in the first process.

    ``metadata`` are those of this task alone, ``arguments`` those of Lightning's trainer.
    """
    settings = module.settings
    folder = settings.results / settings.output.stem
    last = folder / "last.ckpt"
    is_resumed = settings.resume and last.is_file()
    if is_resumed:
        # Before Lightning has the data prepared, which may take hours.
        _check_resumed_settings(AtomicCheckpointIO().load_checkpoint(last), module.hparams)
    trainer = _create_trainer(settings, folder, arguments)
    with warnings.catch_warnings():
        # Batches are drawn by their number, so Lightning's doubts about the data loader are unfounded.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        warnings.filterwarnings("ignore", "Your `IterableDataset` has `__len__` defined")
        trainer.fit(module, datamodule=datamodule, ckpt_path=last if is_resumed else None)
    if trainer.global_step < settings.max_steps:
        msg = (
            f"Pretraining stopped after {trainer.global_step} of {settings.max_steps} steps. Go on with --resume true."
        )
        raise RuntimeError(msg)
    # Again, since the last step need not be one at which the fit measures.
    (measured,) = trainer.validate(module, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        described = {
            **settings.described,
            "iterations": trainer.global_step,
            "batch_size": settings.batch_size * trainer.world_size,
            "lr": settings.lr,
            "seed": settings.seed,
            **metadata,
            **{name: f"{value:.4f}" for name, value in measured.items()},
            "made_with": f"anomalib-students {__version__}",
        }
        save_teacher(module.teacher, settings.output, {name: str(value) for name, value in described.items()})
        results = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
        logger.info("Wrote %s after %d steps: %s.", settings.output, trainer.global_step, results)
    return settings.output


def _create_trainer(settings: TeacherSettings, folder: Path, arguments: Mapping[str, Any]) -> Trainer:
    more = settings.trainer
    every = settings.checkpoint_every
    plugins = [AtomicCheckpointIO(), *more.pop("plugins", ())]
    callbacks = [
        ModelCheckpoint(folder, filename="last", every_n_train_steps=every, enable_version_counter=False),
        LearningRateMonitor("step"),
        Termination("Resume with --resume true."),
        *([RichProgressBar()] if more.get("enable_progress_bar", True) else []),
        *more.pop("callbacks", ()),
    ]
    all_arguments: dict[str, Any] = {
        "accelerator": settings.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": settings.strategy,
        "max_steps": settings.max_steps,
        "val_check_interval": min(every, settings.max_steps),
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": min(50, max(1, every // 5)),
        # Each process draws its own part of a batch.
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "logger": [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard")],
        **arguments,
        **more,
    }
    return Trainer(plugins=plugins, callbacks=callbacks, **all_arguments)


def _check_resumed_settings(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if the run to be resumed had other settings."""
    saved = checkpoint["hyper_parameters"]
    changed = [f"{name}={saved.get(name)}" for name, value in settings.items() if saved.get(name) != value]
    if changed:
        msg = f"The run to be resumed had other settings: {', '.join(changed)}. Resume it with these, or start anew."
        raise ValueError(msg)
