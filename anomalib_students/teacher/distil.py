"""The task of distillation from whole images: from a folder of photographs to a teacher file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from anomalib_students.files import check_output
from anomalib_students.model.patch_network import Architecture

from .distillation import Distillation, valid_points
from .distillation_data import DistillationData
from .feature_source import ENLARGEMENT, GRID_STRIDE, STRIDES, FeatureSource
from .feature_targets import FeatureTargets
from .images import find_images
from .run import fit

__all__ = ["distil"]

DEFAULT_SOURCES = ("resnet18", "tf_efficientnet_lite0")
FURTHER_WEIGHT = 0.7
"""Weight of each source but the first, if none is given."""
HELD_OUT_FRACTION = 0.05
MOST_HELD_OUT = 48
"""Most photographs that are held out: each has hundreds of patches."""
LARGEST_GRADIENT = 1.0
"""Norm to which larger gradients are clipped."""


def distil(
    images: Path,
    output: Path,
    patch_size: int = 33,
    descriptor_dim: int = 128,
    architecture: Architecture = "paper",
    sources: dict[str, Path | None] | None = None,
    source_weights: dict[str, float] | None = None,
    crops: int = 2,
    crop_side: int = 192,
    components: int = 192,
    max_steps: int = 9000,
    batch_size: int = 4,
    lr: float = 1e-3,
    weight_decay: float = 1e-5,
    seed: int = 0,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    checkpoint_every: int = 500,
    results: Path = Path("results/teachers"),
    resume: bool = False,
    data_name: str | None = None,
    licences: str = "unknown",
    trainer_arguments: dict[str, Any] | None = None,
) -> Path:
    """Distil networks that see whole images into a teacher.

    The targets are computed once, and kept for all teachers that are distilled from the same sources and photographs.
    Networks compute in bfloat16 if the device has instructions for it.

    Args:
        images: Folder of photographs, searched recursively. 5 % of them, at most 48, are held out to measure the
            distillation.
        output: Teacher file to write, ``*.safetensors``.
        patch_size: Side p of the patches in pixels: 17, 33 or 65.
        descriptor_dim: Dimension d of the descriptors, at most the number of components.
        architecture: paper for the paper's network, light for a cheap one, medium for the default model's (p = 33
            and 65).
        sources: Names of the timm models that are distilled, each with its file of weights, or null if timm is to
            download them. By default resnet18 and tf_efficientnet_lite0 with downloaded weights.
        source_weights: How much the features of a model count, by its name, greater than 0. By default 1 for the first
            and 0.7 for each other.
        crops: Crops of each photograph.
        crop_side: Side of the crops in pixels, divisible by 8.
        components: Principal components of the features that are computed and kept; all if the sources have fewer.
        max_steps: Training steps.
        batch_size: Crops in a step on each device.
        lr: Greatest learning rate, after 200 steps; it decays to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        seed: Seed of crops, weights and batches.
        accelerator: Lightning accelerator, such as cpu or gpu.
        devices: Devices on each node. Each trains on its own part of a batch of batch_size crops a device.
        num_nodes: Nodes of a cluster, which share the folder of results.
        strategy: Lightning strategy that joins several devices, such as ddp.
        checkpoint_every: Steps between two checkpoints and two measurements of the distillation.
        results: Folder for targets, checkpoints and logs; each output file gets one of its own in it.
        resume: Resume from the last checkpoint of the same output, if there is one. Targets are resumed in any case.
        data_name: What the file's metadata call the photographs. By default the name of the folder.
        licences: What the file's metadata say of the licences of photographs and sources.
        trainer_arguments: More arguments of Lightning's trainer, which come before the others; plugins and callbacks
            are added to those of this task.

    Returns:
        Path of the teacher file.

    Raises:
        FileNotFoundError: If images or weights of a source are missing.
        OSError: If targets, checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the weights of a source cannot be had, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, timm has no such model, or a setting is out of range.
    """
    # What can be refused now is not refused hours later.
    check_output(output, ".safetensors", "A teacher")
    files = dict.fromkeys(DEFAULT_SOURCES) if sources is None else sources
    weights = _weights(list(files), source_weights or {})
    _check_settings(crops=crops, components=components, max_steps=max_steps, batch_size=batch_size)
    _check_side(crop_side, patch_size)
    n_images = len(find_images(images))
    if n_images < 2:
        msg = f"Distillation needs at least 2 images, {images} has {n_images}."
        raise ValueError(msg)
    seed_everything(seed)
    networks = {name: FeatureSource(name, path) for name, path in files.items()}
    for network in networks.values():
        network.check_side(crop_side)
    targets = FeatureTargets(results, images, networks, weights, crops, crop_side, components, seed)
    if descriptor_dim > targets.n_components:
        msg = f"descriptor_dim must be at most the number of components, {targets.n_components}, got {descriptor_dim}."
        raise ValueError(msg)
    targets.check_space()
    arguments = trainer_arguments or {}
    n_held_out = min(MOST_HELD_OUT, max(1, round(HELD_OUT_FRACTION * n_images)))
    data = DistillationData(
        targets,
        # All over the folder, whose photographs are sorted by their names.
        held_out=[number * n_images // n_held_out for number in range(n_held_out)],
        dim=descriptor_dim,
        batch_size=batch_size,
        seed=seed,
        progress=arguments.get("enable_progress_bar", True),
    )
    # The sources draw random weights first if they are loaded from files.
    seed_everything(seed, verbose=False)
    module = Distillation(
        patch_size, descriptor_dim, architecture, lr, weight_decay, batch_size=batch_size, seed=seed, data=targets.name
    )
    run = fit(
        module,
        results / output.stem,
        max_steps,
        checkpoint_every,
        resume,
        arguments,
        data,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        gradient_clip_val=LARGEST_GRADIENT,
    )
    metadata = {
        "data": data_name or images.resolve().name,
        "n_images": str(n_images),
        "task": "distillation from whole images",
        "source": ", ".join(files),
        "source_weights": ", ".join(str(weights[name]) for name in files),
        "crops": str(crops),
        "crop_side": str(crop_side),
        "components": str(targets.n_components),
        "iterations": str(run.steps),
        "batch_size": str(batch_size * run.world_size),
        "lr": str(lr),
        "seed": str(seed),
    }
    run.write_teacher(module.teacher, output, metadata, licences)
    return output


def _weights(names: list[str], given: Mapping[str, float]) -> dict[str, float]:
    """Complete and check the weights of the sources."""
    if not names:
        msg = "Distillation needs at least one source network."
        raise ValueError(msg)
    unknown = sorted(set(given) - set(names))
    if unknown:
        msg = f"source_weights names {', '.join(unknown)}, but the sources are {', '.join(names)}."
        raise ValueError(msg)
    defaults = {name: FURTHER_WEIGHT if index else 1.0 for index, name in enumerate(names)}
    weights = {**defaults, **given}
    if not all(0 < weight < float("inf") for weight in weights.values()):
        msg = f"source_weights must be greater than 0, got {weights}."
        raise ValueError(msg)
    return weights


def _check_settings(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            msg = f"{name} must be at least 1, got {value}."
            raise ValueError(msg)


def _check_side(crop_side: int, patch_size: int) -> None:
    divisor = STRIDES[-1] // ENLARGEMENT
    if crop_side < GRID_STRIDE or crop_side % divisor:
        msg = f"crop_side must be divisible by {divisor}, got {crop_side}."
        raise ValueError(msg)
    valid_points(crop_side, patch_size)
