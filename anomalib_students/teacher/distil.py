"""The task of distillation from whole images: from a folder of photographs to a teacher file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from .distillation import Distillation, valid_points
from .distillation_data import DistillationData
from .feature_source import ENLARGEMENT, GRID_STRIDE, STRIDES, FeatureSource
from .feature_targets import FeatureTargets
from .run import check_run, make_teacher
from .settings import TeacherSettings

__all__ = ["DistilSettings", "distil"]

DEFAULT_SOURCES = ("resnet18", "tf_efficientnet_lite0")
FURTHER_WEIGHT = 0.7
"""Weight of each source but the first, if none is given."""
HELD_OUT_FRACTION = 0.05
MOST_HELD_OUT = 48
"""Most photographs that are held out: each has hundreds of patches."""
LARGEST_GRADIENT = 1.0
"""Norm to which larger gradients are clipped."""


@dataclass(frozen=True, kw_only=True)
class DistilSettings(TeacherSettings):
    """Settings of :func:`distil`.

    Raises:
        ValueError: If one of them is out of range.
    """

    images: Path
    """Folder of photographs, searched recursively. 5 % of them, at most 48, are held out to measure the teacher."""
    descriptor_dim: int = 128
    """Dimension d of the descriptors, at most the number of components."""
    max_steps: int = 9000
    """Training steps."""
    batch_size: int = 4
    """Crops in a step on each device."""
    lr: float = 1e-3
    """Greatest learning rate of AdamW, after 200 steps; it decays to zero along a cosine."""
    sources: dict[str, Path | None] | None = None
    """Names of the timm models that are distilled, each with its file of weights, or null if timm is to download them.
    By default resnet18 and tf_efficientnet_lite0 with downloaded weights."""
    source_weights: dict[str, float] | None = None
    """How much the features of a model count, by its name, greater than 0. By default 1 for the first and 0.7 for each
    other."""
    crops: int = 2
    """Crops of each photograph."""
    crop_side: int = 192
    """Side of the crops in pixels, divisible by 8."""
    components: int = 192
    """Principal components of the features that are computed and kept; all if the sources have fewer."""

    @property
    def files(self) -> dict[str, Path | None]:
        """The sources and their files, by default those of :data:`DEFAULT_SOURCES`."""
        return dict.fromkeys(DEFAULT_SOURCES) if self.sources is None else self.sources

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each source."""
        defaults = {name: FURTHER_WEIGHT if index else 1.0 for index, name in enumerate(self.files)}
        return {**defaults, **(self.source_weights or {})}

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.files:
            msg = "Distillation needs at least one source network."
            raise ValueError(msg)
        unknown = sorted(set(self.source_weights or {}) - set(self.files))
        if unknown:
            msg = f"source_weights names {', '.join(unknown)}, but the sources are {', '.join(self.files)}."
            raise ValueError(msg)
        if not all(0 < weight < float("inf") for weight in self.weights.values()):
            msg = f"source_weights must be greater than 0, got {self.weights}."
            raise ValueError(msg)
        for name in ("crops", "components", "max_steps", "batch_size"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, got {getattr(self, name)}."
                raise ValueError(msg)
        divisor = STRIDES[-1] // ENLARGEMENT
        if self.crop_side < GRID_STRIDE or self.crop_side % divisor:
            msg = f"crop_side must be divisible by {divisor}, got {self.crop_side}."
            raise ValueError(msg)
        valid_points(self.crop_side, self.patch_size)


def distil(**settings: Any) -> Path:
    """Distil networks that see whole images into a teacher.

    The targets are computed once, and kept for all teachers that are distilled from the same sources and photographs;
    their computation is resumed in any case. Networks compute in bfloat16 if the device has instructions for it.

    Args:
        settings: Those of :class:`DistilSettings`, by name.

    Returns:
        Path of the teacher file.

    Raises:
        FileNotFoundError: If images or weights of a source are missing.
        OSError: If targets, checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the weights of a source cannot be loaded, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, timm has no such model, or a setting is out of range.
    """
    task = DistilSettings(**settings)
    n_images = len(check_run(task, "Distillation", least=2))
    seed_everything(task.seed)
    networks = {name: FeatureSource(name, path) for name, path in task.files.items()}
    for network in networks.values():
        network.check_side(task.crop_side)
    targets = FeatureTargets(
        task.results, task.images, networks, task.weights, task.crops, task.crop_side, task.components, task.seed
    )
    if task.descriptor_dim > targets.n_components:
        msg = (
            f"descriptor_dim must be at most the number of components, {targets.n_components}, "
            f"got {task.descriptor_dim}."
        )
        raise ValueError(msg)
    targets.check_space()
    n_held_out = min(MOST_HELD_OUT, max(1, round(HELD_OUT_FRACTION * n_images)))
    data = DistillationData(
        targets,
        # All over the folder, whose photographs are sorted by their names.
        held_out=[number * n_images // n_held_out for number in range(n_held_out)],
        dim=task.descriptor_dim,
        batch_size=task.batch_size,
        seed=task.seed,
        progress=task.trainer.get("enable_progress_bar", True),
    )
    # The sources draw random weights first if they are loaded from files.
    seed_everything(task.seed, verbose=False)
    metadata = {
        "n_images": n_images,
        "task": "distillation from whole images",
        "source": ", ".join(task.files),
        "source_weights": ", ".join(str(task.weights[name]) for name in task.files),
        "crops": task.crops,
        "crop_side": task.crop_side,
        "components": targets.n_components,
    }
    module = Distillation(task, data=targets.name)
    return make_teacher(module, metadata, data, gradient_clip_val=LARGEST_GRADIENT)
