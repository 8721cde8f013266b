"""What all ways to make a teacher share: settings, a Lightning module, and the run that ends with a teacher file."""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jsonargparse.typing import restricted_string_type
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision.transforms.v2 import functional as transforms

from anomalib_students import __version__
from anomalib_students.files import check_output
from anomalib_students.networks.lean import make_network
from anomalib_students.networks.patch_network import Architecture
from anomalib_students.networks.weights import check_metadata, save_teacher
from anomalib_students.trainings import AtomicCheckpointIO, Termination, cosine_with_warm_up

from .data import find_images

logger = logging.getLogger(__name__)

# jsonargparse would take a mapping that fits nothing else as text.
Text = restricted_string_type("Text", r"[^{}]*", docstring="Text without braces.")
PlainSettings = dict[str, bool | int | float | Text | list[int] | list[Text] | None]  # type: ignore[valid-type]
"""Type of the trainer's settings. With ``Any``, jsonargparse would instantiate any class that a file names."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """What a task reads and writes, its teacher, and how and where that is trained."""

    recorded: ClassVar[tuple[str, ...]] = ("patch_size", "descriptor_dim", "architecture", "batch_size", "lr", "seed")
    """Settings that checkpoints record, so that a run is not resumed with others."""

    images: Path
    """Folder of images, searched recursively. 5 % of them are held out to measure the teacher."""
    output: Path
    """Teacher file to write, ``*.safetensors``."""
    patch_size: int = 33
    """Side p of the patches in pixels: 17, 33 or 65; of lean networks 83."""
    descriptor_dim: int = 128
    """Dimension d of the descriptors."""
    architecture: Architecture = "paper"
    """paper for the paper's network, lean for the default model's (only by distil, p = 83)."""
    max_steps: int
    """Training steps."""
    batch_size: int
    """Patches or crops in a step on each device."""
    lr: float
    """Greatest learning rate."""
    seed: int = 0
    """Seed of weights, data and their order."""
    accelerator: str = "auto"
    """Lightning accelerator, such as cpu or gpu."""
    devices: int = 1
    """Devices. Each trains on its own share of a batch, whose size is batch_size times their number."""
    strategy: str = "auto"
    """Lightning strategy that joins several devices, such as ddp."""
    checkpoint_every: int = 500
    """Steps between two checkpoints and two measurements of the teacher."""
    results: Path = Path("results/teachers")
    """Folder for checkpoints and logs; each output file gets one of its own in it."""
    resume: bool = False
    """Resume from the last checkpoint of the same output, if there is one."""
    licences: str = "unknown"
    """Licences of images and sources, for the file's metadata."""
    trainer_arguments: PlainSettings | None = None
    """More arguments of Lightning's trainer, which replace those of the task; plugins and callbacks are added."""

    @property
    def folder(self) -> Path:
        """Folder for checkpoints and logs of this output."""
        return self.results / self.output.stem

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from, if one is there and wanted."""
        path = self.folder / "last.ckpt"
        return path if self.resume and path.is_file() else None

    @property
    def described(self) -> dict[str, str]:
        """Name and licences of the images, for the teacher file."""
        return {"data": self.images.resolve().name, "licences": self.licences}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What checkpoints record."""
        return {name: getattr(self, name) for name in self.recorded}


@dataclass(eq=False)
class _BatchNumbers(IterableDataset):
    """Numbers of the batches from ``first`` on, of ``total`` in the whole run."""

    first: int
    total: int

    def __iter__(self) -> Iterator[int]:
        """Count from the first batch to the last."""
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        """Count the batches of the whole run, those before the first too, as the progress bar does."""
        return self.total


class TeacherTraining(LightningModule, ABC):
    """Base of the modules that train a teacher, on batches that follow from their numbers."""

    def __init__(self, settings: TeacherSettings, sources: Sequence[nn.Module]) -> None:
        super().__init__()
        self.save_hyperparameters(settings.hyperparameters)
        self.settings = settings
        self.teacher = make_network(settings.patch_size, settings.descriptor_dim, settings.architecture)
        # In a tuple, so that neither their weights nor their mode belong to this module: they are in no checkpoint.
        self.sources = tuple(sources)

    @abstractmethod
    def measure_sources(self, device: torch.device) -> None:
        """Measure the statistics by which the sources' descriptors are standardised."""

    def setup(self, stage: str) -> None:
        """Move the sources to the device, and measure them unless a checkpoint brings the statistics of its own run."""
        device = self.trainer.strategy.root_device
        for source in self.sources:
            source.to(device)
        if stage == "fit" and self.settings.checkpoint is None:
            self.measure_sources(device)

    def train_dataloader(self) -> DataLoader:
        """Number the batches that follow the last step."""
        return DataLoader(_BatchNumbers(self.global_step, self.trainer.max_steps), batch_size=None)

    def on_validation_epoch_start(self) -> None:
        """Reset the measurements."""
        self._squared_errors = 0.0
        self._squared_targets = 0.0

    def compare(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        """Add predictions of held-out targets to the measurement."""
        self._squared_errors += float((predictions - targets).square().sum())
        self._squared_targets += float(targets.square().sum())

    def on_validation_epoch_end(self) -> None:
        """Log ``held_out_r2``, the fraction of the targets' variance that the teacher explains, at most 1."""
        if self.sources:
            self.log("held_out_r2", 1 - self._squared_errors / self._squared_targets, prog_bar=True)

    def decaying(self, optimizer: torch.optim.Optimizer, warm_up: int = 0) -> OptimizerLRScheduler:
        """Let the learning rate rise over some steps, then decay to zero over the run."""
        factor = partial(cosine_with_warm_up, steps=self.trainer.max_steps, warm_up=warm_up)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Normalise images with values in [0, 1] as for ImageNet."""
    return transforms.normalize(images, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))


def check_run(settings: TeacherSettings, what: str, least: int) -> list[Path]:
    """Check what would otherwise fail after hours, and return the paths of the images."""
    check_output(settings.output, ".safetensors", "A teacher")
    check_metadata(settings.described, "The teacher to be written")
    paths = find_images(settings.images)
    if len(paths) < least:
        raise ValueError(f"{what} needs at least {least} images, {settings.images} has {len(paths)}.")
    if settings.checkpoint is not None:
        saved = AtomicCheckpointIO().load_checkpoint(settings.checkpoint)["hyper_parameters"]
        current = settings.hyperparameters
        changed = [f"{name}={saved.get(name)}" for name in current if saved.get(name) != current[name]]
        if changed:
            had = ", ".join(changed)
            raise ValueError(f"The run to be resumed had other settings: {had}. Resume it with these, or start anew.")
    return paths


def make_teacher(module: TeacherTraining, metadata: Mapping[str, object], **arguments: Any) -> Path:
    """Train a teacher with arguments of Lightning's trainer, measure it, and write its file in the first process."""
    settings = module.settings
    trainer = _create_trainer(settings, arguments)
    with warnings.catch_warnings():
        # Batches are drawn by their number, so Lightning's doubts about the data loader are unfounded.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        warnings.filterwarnings("ignore", "Your `IterableDataset` has `__len__` defined")
        trainer.fit(module, ckpt_path=settings.checkpoint)
    if trainer.global_step < settings.max_steps:
        steps = f"{trainer.global_step} of {settings.max_steps} steps"
        raise RuntimeError(f"Pretraining stopped after {steps}. Continue with --resume true.")
    # Again, since the last step need not be one at which the fit measures.
    (measured,) = trainer.validate(module, verbose=False)
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


def _create_trainer(settings: TeacherSettings, arguments: Mapping[str, Any]) -> Trainer:
    folder, every = settings.folder, settings.checkpoint_every
    more: dict[str, Any] = {**(settings.trainer_arguments or {})}
    plugins = [AtomicCheckpointIO(), *more.pop("plugins", ())]
    callbacks = [
        ModelCheckpoint(folder, filename="last", every_n_train_steps=every, enable_version_counter=False),
        LearningRateMonitor("step"),
        Termination("Resume with --resume true."),
        *more.pop("callbacks", ()),
    ]
    all_arguments: dict[str, Any] = {
        **{name: getattr(settings, name) for name in ("accelerator", "devices", "strategy", "max_steps")},
        "val_check_interval": min(every, settings.max_steps),
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": min(50, max(1, every // 5)),
        # Each process draws its own share of a batch.
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "logger": [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard")],
        **arguments,
        **more,
    }
    return Trainer(plugins=plugins, callbacks=callbacks, **all_arguments)
