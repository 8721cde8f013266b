"""The pretraining task: from a folder of images to a teacher file."""

import logging
from pathlib import Path
from typing import Literal

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from anomalib_students import __version__

from .patches import find_images, load_images
from .pretraining import TeacherPretraining
from .source import DistillationSource
from .weights import save_teacher

__all__ = ["pretrain"]

logger = logging.getLogger(__name__)

HELD_OUT_FRACTION = 0.05
"""Part of the images that no training patch comes from."""


def pretrain(
    images: Path,
    output: Path,
    patch_size: int = 33,
    descriptor_dim: int = 128,
    source: str = "resnet18",
    source_checkpoint: Path | None = None,
    source_layer: str | None = None,
    source_size: int = 64,
    lambda_k: float = 1.0,
    lambda_c: float = 1.0,
    max_steps: int = 50_000,
    batch_size: int = 64,
    lr: float = 2e-4,
    weight_decay: float = 1e-5,
    seed: int = 0,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    accelerator: str = "auto",
    checkpoint_every: int = 500,
    results: Path = Path("results/teachers"),
    resume: bool = False,
    data_name: str | None = None,
    licences: str = "unknown",
) -> Path:
    """Pretrain a teacher on patches of natural images.

    Args:
        images: Folder of images, searched recursively. 5 % of them are held out to measure the distillation.
        output: Teacher file to write, ``*.safetensors``.
        patch_size: Side p of the patches in pixels: 17, 33 or 65.
        descriptor_dim: Dimension d of the descriptors.
        source: Name of the timm model whose knowledge is distilled.
        source_checkpoint: Weights of that model. By default timm downloads its pretrained weights.
        source_layer: Layer of that model whose pooled features are distilled, say layer3. By default the model's own
            pooled feature vector.
        source_size: Side in pixels at which that model sees a patch.
        lambda_k: Weight of the distillation loss (eq. 1).
        lambda_c: Weight of the compactness loss (eq. 5).
        max_steps: Training steps.
        batch_size: Patches in a step.
        lr: Initial learning rate; it decays to zero along a cosine.
        weight_decay: Weight decay of Adam.
        seed: Seed of weights and patches.
        precision: Arithmetic of the networks.
        accelerator: Lightning accelerator, such as cpu or gpu.
        checkpoint_every: Steps between two checkpoints and two measurements of the distillation.
        results: Folder for checkpoints and logs; each output file gets one of its own in it.
        resume: Go on from the last checkpoint of the same output, if there is one.
        data_name: What the file's metadata call the images. By default the name of the folder.
        licences: What the file's metadata say of the licences of images and source.

    Returns:
        Path of the teacher file.

    Raises:
        FileNotFoundError: If images or checkpoint are missing.
        ValueError: If an image cannot be read or a setting is out of range.
    """
    seed_everything(seed)
    paths = find_images(images)
    if len(paths) < 2:
        msg = f"Pretraining needs at least 2 images, {images} has {len(paths)}."
        raise ValueError(msg)
    network_source = DistillationSource(source, source_checkpoint, source_layer, source_size)
    pictures = load_images(paths)
    held_out_every = min(round(1 / HELD_OUT_FRACTION), len(pictures))
    module = TeacherPretraining(
        source=network_source,
        train_images=[picture for index, picture in enumerate(pictures) if index % held_out_every],
        held_out_images=pictures[::held_out_every],
        patch_size=patch_size,
        descriptor_dim=descriptor_dim,
        batch_size=batch_size,
        lambda_k=lambda_k,
        lambda_c=lambda_c,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
    )
    folder = results / output.stem
    last = folder / "last.ckpt"
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=max_steps,
        val_check_interval=min(checkpoint_every, max_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        logger=[CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard")],
        callbacks=[
            ModelCheckpoint(
                folder, filename="last", every_n_train_steps=checkpoint_every, enable_version_counter=False
            ),
            LearningRateMonitor("step"),
            RichProgressBar(),
        ],
    )
    trainer.fit(module, ckpt_path=last if resume and last.is_file() else None)

    if trainer.global_step < max_steps:
        msg = f"Pretraining stopped after {trainer.global_step} of {max_steps} steps. Go on with --resume true."
        raise RuntimeError(msg)
    # Anew, since the last step need not be one at which the fit measures.
    r2 = trainer.validate(module, verbose=False)[0]["held_out_r2"]
    metadata = {
        "data": data_name or images.resolve().name,
        "n_images": str(len(pictures)),
        "source": source,
        "source_layer": source_layer or "pooled features",
        "source_size": str(source_size),
        "iterations": str(trainer.global_step),
        "batch_size": str(batch_size),
        "lambda_k": str(lambda_k),
        "lambda_c": str(lambda_c),
        "lr": str(lr),
        "seed": str(seed),
        "held_out_r2": f"{r2:.4f}",
        "licences": licences,
        "made_with": f"anomalib-students {__version__}",
    }
    save_teacher(module.teacher, output, metadata)
    logger.info("Wrote %s: held-out R2 %.3f after %d steps.", output, r2, trainer.global_step)
    return output
