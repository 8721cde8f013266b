"""Settings of the model and its training: what the command line names, and what only research changes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Literal, get_args

from anomalib_students.networks.patch_network import Architecture

from .augment import TrainingMode

LearningRateSchedule = Literal["constant", "cosine"]
Optimizer = Literal["adam", "muon"]
Preset = Literal["default", "paper"]


@dataclass(frozen=True)
class Settings:
    """Settings of :class:`~anomalib_students.model.lightning_model.UninformedStudents`, which has most as arguments.

    Attributes:
        hard_fraction: Fraction in ``(0, 1]`` of the pixels of a step, the hardest, that count for the loss; 1 in eq. 7.
        light_jitter: Strength of random changes of contrast, brightness, colour and exposure in training, so that a
            drift of the light is no defect; 0 for none.
        synthetic_defects: Fraction in ``[0, 1]`` of the training images that are painted with synthetic defects for
            only the students, so that they do not learn to imitate the teacher on defects.
        shared_layers: First layers of the teacher, whose output the students continue from; 0 for none.
        whitening: Whether descriptors are whitened by the training images, not only normalised as in eq. 7, and the
            errors weighted by how much good images have of them, and focused by the teacher's fine features.
        local_mean: How far, in ``[0, 1]``, the mean error of each place of the image replaces that of all places in eq.
            11, so that less is expected where good parts are hard to describe; 0 in the paper.
        score_fraction: Fraction in ``[0, 1)`` of the image, where scores are largest, whose mean is the score of
            the image; 0 for the maximum of the map.
        optimizer: ``"muon"``, or ``"adam"`` as the paper.
        lr_schedule: ``"cosine"`` to let the learning rate decay to zero over the training, or ``"constant"``.

    Raises:
        ValueError: If a setting is out of range.
    """

    patch_sizes: tuple[int, ...] = (83, 167)
    image_size: int = 320
    n_students: int = 1
    output_stride: int = 8
    training_mode: TrainingMode = "phase"
    architecture: Architecture = "lean"
    descriptor_dim: int | None = None
    max_tile: int = 512
    lr: float = 5e-3
    normalization_split: float = 0.1
    hard_fraction: float = 0.1
    light_jitter: float = 1.0
    synthetic_defects: float = 0.5
    shared_layers: int = 1
    whitening: bool = True
    local_mean: float = 0.5
    score_fraction: float = 0.005
    optimizer: Optimizer = "muon"
    lr_schedule: LearningRateSchedule = "cosine"

    @property
    def dim(self) -> int:
        """Dimension d of the descriptors: 128 by default, of lean networks 208."""
        return (208 if self.architecture == "lean" else 128) if self.descriptor_dim is None else self.descriptor_dim

    def __post_init__(self) -> None:
        # Command lines and checkpoints give lists.
        object.__setattr__(self, "patch_sizes", tuple(self.patch_sizes))
        sizes = self.patch_sizes
        modes, optimizers, schedules = map(get_args, (TrainingMode, Optimizer, LearningRateSchedule))
        requirements = {
            "patch_sizes": (0 < len({*sizes}) == len(sizes), "name at least one patch size, each once"),
            "image_size": (self.image_size > 0, "be positive"),
            "n_students": (self.n_students >= 1, "be at least 1"),
            "training_mode": (self.training_mode in modes, f"be one of {modes}"),
            "lr": (self.lr > 0, "be positive"),
            "normalization_split": (0 < self.normalization_split < 1, "lie between 0 and 1"),
            "hard_fraction": (0 < self.hard_fraction <= 1, "lie in (0, 1]"),
            "light_jitter": (0 <= self.light_jitter < inf, "be at least 0 and finite"),
            "synthetic_defects": (0 <= self.synthetic_defects <= 1, "lie in [0, 1]"),
            "local_mean": (0 <= self.local_mean <= 1, "lie in [0, 1]"),
            "score_fraction": (0 <= self.score_fraction < 1, "lie in [0, 1)"),
            "optimizer": (self.optimizer in optimizers, f"be one of {optimizers}"),
            "lr_schedule": (self.lr_schedule in schedules, f"be one of {schedules}"),
        }
        for name, (is_met, requirement) in requirements.items():
            if not is_met:
                raise ValueError(f"{name} must {requirement}, got {getattr(self, name)!r}.")


PRESETS: Mapping[str, Settings] = {
    "default": Settings(),
    "paper": Settings(
        patch_sizes=(17, 33, 65),
        image_size=256,
        n_students=3,
        output_stride=4,
        architecture="paper",
        lr=1e-4,
        hard_fraction=1.0,
        light_jitter=0.0,
        synthetic_defects=0.0,
        shared_layers=0,
        whitening=False,
        local_mean=0.0,
        score_fraction=0.0,
        optimizer="adam",
        lr_schedule="constant",
    ),
}
"""With the paper's, descriptors, loss and scores are those of eqs. 7 to 12.

``output_stride=1`` and ``training_mode="dense"`` compute them at every pixel."""


def settings_of(preset: Preset | Settings, arguments: Mapping[str, Any]) -> Settings:
    """Settings of a preset, except those named among arguments; a ``ValueError`` if any is out of range."""
    if not isinstance(preset, Settings) and preset not in PRESETS:
        raise ValueError(f"preset must be one of {get_args(Preset)}, got {preset!r}.")
    base, named = preset if isinstance(preset, Settings) else PRESETS[preset], named_settings(arguments)
    if named.get("architecture", base.architecture) != base.architecture and "patch_sizes" not in named:
        named["patch_sizes"] = PRESETS["default"].patch_sizes if named["architecture"] == "lean" else (65,)
    return replace(base, **named)


def named_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the settings among arguments, except those that are None."""
    names = {field.name for field in fields(Settings)}
    return {name: value for name, value in arguments.items() if name in names and value is not None}
