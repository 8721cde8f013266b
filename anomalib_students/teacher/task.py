"""The pretraining task: from a folder of images to a teacher file."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import seed_everything

from anomalib_students.files import check_output
from anomalib_students.model.patch_network import Architecture

from .images import ImageStore, find_images, load_images
from .pretraining import TeacherPretraining, check_loss_weights
from .run import fit
from .source import DistillationSource
from .weights import check_metadata

__all__ = ["pretrain"]

HELD_OUT_FRACTION = 0.05
"""Part of the images that no training patch comes from."""


def pretrain(
    images: Path,
    output: Path,
    patch_size: int = 33,
    descriptor_dim: int = 128,
    architecture: Architecture = "paper",
    source: str = "resnet18",
    source_checkpoint: Path | None = None,
    source_layer: str | None = None,
    source_size: int = 64,
    lambda_k: float = 1.0,
    lambda_m: float = 0.0,
    lambda_c: float = 1.0,
    margin: float = 1.0,
    max_steps: int = 50_000,
    batch_size: int = 64,
    lr: float = 2e-4,
    weight_decay: float = 1e-5,
    seed: int = 0,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    image_side: int = 256,
    checkpoint_every: int = 500,
    results: Path = Path("results/teachers"),
    resume: bool = False,
    data_name: str | None = None,
    licences: str = "unknown",
    trainer_arguments: dict[str, Any] | None = None,
) -> Path:
    """Pretrain a teacher on patches of natural images.

    Args:
        images: Folder of images, searched recursively. 5 % of them are held out to measure the distillation.
        output: Teacher file to write, ``*.safetensors``.
        patch_size: Side p of the patches in pixels: 17, 33 or 65.
        descriptor_dim: Dimension d of the descriptors.
        architecture: paper for the paper's network, light for a cheap one, medium for the default model's (p = 33
            and 65).
        source: Name of the timm model whose knowledge is distilled, or bundled for this package's own for p = 33.
        source_checkpoint: Weights of that model. By default timm downloads its pretrained weights.
        source_layer: Layer of that model whose pooled features are distilled, say layer3. By default the model's own
            pooled feature vector.
        source_size: Side in pixels at which that model sees a patch.
        lambda_k: Weight of the distillation loss (eq. 1). With 0 there is no source, and the teacher supervises itself.
        lambda_m: Weight of the metric learning loss on triplets (eq. 2).
        lambda_c: Weight of the compactness loss (eq. 5).
        margin: Margin delta of the metric learning loss.
        max_steps: Training steps.
        batch_size: Patches, or triplets, in a step on each device.
        lr: Initial learning rate; it decays to zero along a cosine.
        weight_decay: Weight decay of Adam.
        seed: Seed of weights and patches.
        precision: Arithmetic of the networks.
        accelerator: Lightning accelerator, such as cpu or gpu.
        devices: Devices on each node. Each trains on its own part of a batch of batch_size patches a device.
        num_nodes: Nodes of a cluster.
        strategy: Lightning strategy that joins several devices, such as ddp.
        image_side: Images are kept in memory with their shorter side at most this many pixels long.
        checkpoint_every: Steps between two checkpoints and two measurements of the distillation.
        results: Folder for checkpoints and logs; each output file gets one of its own in it.
        resume: Go on from the last checkpoint of the same output, if there is one.
        data_name: What the file's metadata call the images. By default the name of the folder.
        licences: What the file's metadata say of the licences of images and source.
        trainer_arguments: More arguments of Lightning's trainer, which come before the others; plugins and callbacks
            are added to those of this task.

    Returns:
        Path of the teacher file.

    Raises:
        FileNotFoundError: If images or checkpoint are missing.
        OSError: If checkpoints, logs or the teacher cannot be written.
        RuntimeError: If the source's weights cannot be had, or the run stops before its last step.
        ValueError: If an image cannot be read, there are too few, or a setting is out of range.
    """
    check_loss_weights(lambda_k, lambda_m, lambda_c, margin)
    # What can be told now is not told hours later.
    check_output(output, ".safetensors", "A teacher")
    described = {"data": data_name or images.resolve().name, "licences": licences}
    check_metadata(described, "The teacher to be written")
    seed_everything(seed)
    paths = find_images(images)
    # Each part, the training and the held-out images, needs a different image for the negatives.
    least = 4 if lambda_m else 2
    if len(paths) < least:
        reason = " with triplets (lambda_m > 0)" if lambda_m else ""
        msg = f"Pretraining{reason} needs at least {least} images, {images} has {len(paths)}."
        raise ValueError(msg)
    network_source = DistillationSource(source, source_checkpoint, source_layer, source_size) if lambda_k else None
    pictures = load_images(paths, image_side)
    held_out_every = min(round(1 / HELD_OUT_FRACTION), len(pictures) * 2 // least)
    module = TeacherPretraining(
        source=network_source,
        train_images=ImageStore.from_images(
            [picture for index, picture in enumerate(pictures) if index % held_out_every]
        ),
        held_out_images=ImageStore.from_images(pictures[::held_out_every]),
        patch_size=patch_size,
        descriptor_dim=descriptor_dim,
        architecture=architecture,
        batch_size=batch_size,
        lambda_k=lambda_k,
        lambda_m=lambda_m,
        lambda_c=lambda_c,
        margin=margin,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
    )
    run = fit(
        module,
        results / output.stem,
        max_steps,
        checkpoint_every,
        resume,
        trainer_arguments or {},
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
    )
    distilled = {
        "source": source,
        "source_layer": source_layer or "pooled features",
        "source_size": str(source_size),
    }
    metadata = {
        **described,
        "n_images": str(len(pictures)),
        **(distilled if lambda_k else {"source": "none"}),
        "iterations": str(run.steps),
        "batch_size": str(batch_size * run.world_size),
        "lambda_k": str(lambda_k),
        "lambda_m": str(lambda_m),
        "lambda_c": str(lambda_c),
        **({"margin": str(margin)} if lambda_m else {}),
        "lr": str(lr),
        "seed": str(seed),
    }
    run.write_teacher(module.teacher, output, metadata, licences)
    return output
