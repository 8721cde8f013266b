"""Settings of all ways to make a teacher. The options of the command line are made of the fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from anomalib_students.engine.plain_settings import PlainSettings
from anomalib_students.networks.patch_network import Architecture

__all__ = ["TeacherSettings"]


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """What a task reads and writes, its teacher, and how and where that is trained."""

    recorded: ClassVar[tuple[str, ...]] = (
        "patch_size",
        "descriptor_dim",
        "architecture",
        "batch_size",
        "lr",
        "weight_decay",
        "seed",
    )
    """Settings that checkpoints record, so that a run is not resumed with others."""

    images: Path
    """Folder of images, searched recursively. 5 % of them are held out to measure the teacher."""
    output: Path
    """Teacher file to write, ``*.safetensors``."""
    patch_size: int = 33
    """Side p of the patches in pixels: 17, 33 or 65."""
    descriptor_dim: int = 128
    """Dimension d of the descriptors."""
    architecture: Architecture = "paper"
    """paper for the paper's network, light for a cheap one, medium for the default model's (p = 33 and 65)."""
    max_steps: int
    """Training steps."""
    batch_size: int
    """Patches or crops in a step on each device."""
    lr: float
    """Greatest learning rate."""
    weight_decay: float = 1e-5
    """Weight decay of the optimizer."""
    seed: int = 0
    """Seed of weights, data and their order."""
    accelerator: str = "auto"
    """Lightning accelerator, such as cpu or gpu."""
    devices: int = 1
    """Devices on each node. Each trains on its own part of a batch, whose size is batch_size times their number."""
    num_nodes: int = 1
    """Nodes of a cluster, which share the folder of results."""
    strategy: str = "auto"
    """Lightning strategy that joins several devices, such as ddp."""
    checkpoint_every: int = 500
    """Steps between two checkpoints and two measurements of the teacher."""
    results: Path = Path("results/teachers")
    """Folder for checkpoints and logs; each output file gets one of its own in it."""
    resume: bool = False
    """Resume from the last checkpoint of the same output, if there is one."""
    data_name: str | None = None
    """Name of the images in the file's metadata. By default that of the folder."""
    licences: str = "unknown"
    """Licences of images and sources, for the file's metadata."""
    trainer_arguments: PlainSettings | None = None
    """More arguments of Lightning's trainer, which replace those of the task; plugins and callbacks are added."""

    @property
    def trainer(self) -> dict[str, Any]:
        """A copy of the trainer arguments."""
        return {**(self.trainer_arguments or {})}

    @property
    def described(self) -> dict[str, str]:
        """Name and licences of the images, for the teacher file's metadata."""
        return {"data": self.data_name or self.images.resolve().name, "licences": self.licences}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The recorded settings, by name."""
        return {name: getattr(self, name) for name in self.recorded}
