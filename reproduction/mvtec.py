"""Tables 1 and 3: the methods, and the scales of ours, on the categories of MVTec AD."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.v2 import Resize, Transform
from tqdm import tqdm

from anomalib_students.data import MVTec
from anomalib_students.model.anomaly_map import upsample
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.model.metrics import create_metrics
from anomalib_students.model.settings import PRESETS
from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path

from .baselines.descriptor_methods import TRAINED, DescriptorMethod, Method
from .baselines.feature_dictionary import FeatureDictionary
from .baselines.ssim_autoencoder import SSIMAutoencoder
from .comparison import HEADINGS, OURS, Comparison, compare, table_of
from .experiment import device, run_cells
from .paper_tables import TABLE_1, TABLE_3
from .scale_metrics import ScaleMetrics

__all__ = ["mvtec", "mvtec_tables"]

MVTecMethod = Literal["ours", Method, "ssim_autoencoder", "cnn_feature_dictionary"]
PatchSize = Literal[17, 33, 65]

IMAGE_SIZE = 256
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
PAPER_EPOCHS = 100
"""Epochs that the paper trains students for (Section 4.2)."""
SSIM_BATCH = 16
SSIM_EPOCHS = 200
WORKERS = min(4, (os.cpu_count() or 1) - 1)
"""Processes that load images."""
DESCRIPTORS = 50_000
MOST_DESCRIPTORS = 1_000_000
"""Most that "all descriptors" may be, which bounds the memory: about every fourth pixel of a category."""
TITLE = "AUPRO up to a false positive rate of 0.3 on MVTec AD"

Score = Callable[[torch.Tensor], torch.Tensor]


def mvtec(
    root: Path = Path("datasets/MVTecAD"),
    categories: list[str] | None = None,
    methods: list[MVTecMethod] | None = None,
    patch_sizes: list[PatchSize] = [17, 33, 65],  # noqa: B006
    baseline_patch_size: PatchSize = 65,
    output_stride: Literal[1, 2, 4, 8] = 1,
    training_mode: Literal["dense", "phase"] = "dense",
    epochs: int | None = None,
    lr: float = 1e-4,
    lr_schedule: Literal["constant", "cosine"] = "constant",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    baseline_descriptors: int | None = None,
    resnet18: Path | None = None,
    seed: int = 0,
    results: Path = Path("results/reproduction/mvtec"),
) -> None:
    """Make Tables 1 and 3: AUPRO of all methods, and of all scales of ours, on MVTec AD.

    Cells that have a result in the folder of the results are not measured again. The defaults are the paper's.

    Args:
        root: Folder with a folder for each category.
        categories: Categories; by default those of MVTec AD that are in the folder.
        methods: Methods; by default all.
        patch_sizes: Receptive fields p of our method in pixels.
        baseline_patch_size: Receptive field of the teacher of the methods that are fitted to descriptors.
        output_stride: Distance in pixels between scored pixels; at least 4 for the CNN feature dictionary.
        training_mode: dense trains on every pixel in each step, as the paper; phase on a fraction, at a fraction of the
            cost.
        epochs: Epochs of our method and of the SSIM autoencoder; by default their papers' 100 and 200.
        lr: Learning rate of our method.
        lr_schedule: constant, as the paper, or cosine, which short trainings profit from.
        precision: Arithmetic of our networks.
        baseline_descriptors: Descriptors that each baseline is fitted to; by default the paper's 50,000, and for the
            autoencoders all, at most a million.
        resnet18: Weights of timm's resnet18 for the CNN feature dictionary, as safetensors; by default timm downloads
            them.
        seed: Seed of each cell.
        results: Folder for the results.

    Raises:
        OSError: If there are no categories, or the results cannot be written.
        RuntimeError: If a cell has failed.
        ValueError: If the folder has results of other settings.
    """
    categories = categories or [name for name in TABLE_1.index if (root / name).is_dir()]
    if not categories:
        msg = f"There are no categories of MVTec AD in {root.resolve()}: name their folder with --root."
        raise FileNotFoundError(msg)
    settings = {
        "baseline_patch_size": baseline_patch_size,
        "output_stride": output_stride,
        "training_mode": training_mode,
        "patch_sizes": sorted(patch_sizes),
        "epochs": epochs,
        "lr": lr,
        "lr_schedule": lr_schedule,
        "precision": precision,
        "baseline_descriptors": baseline_descriptors,
    }
    cells = {}
    for category in categories:
        for method in methods or get_args(MVTecMethod):
            if method == OURS:
                measure = partial(_ours, settings)
            elif method == "ssim_autoencoder":
                measure = partial(_ssim_autoencoder, epochs or SSIM_EPOCHS)
            elif method == "cnn_feature_dictionary":
                measure = partial(_feature_dictionary, settings, resnet18)
            else:
                measure = partial(_descriptors, settings, method)
            cells[category, method] = partial(measure, root, category)
    run_cells(results, cells, settings, seed, partial(mvtec_tables, baseline_patch_size=baseline_patch_size))


def mvtec_tables(results: Sequence[Mapping[str, Any]], baseline_patch_size: int) -> list[Comparison]:
    """Compare results with the paper's Tables 1 and 3.

    The paper's figures of the baselines are for p = 65, whatever ``baseline_patch_size`` is.
    """
    ours = table_of(results)
    scales = TABLE_3.rename(columns=_heading)
    title = f"Table 1: {TITLE}, methods at p = {baseline_patch_size}"
    methods = TABLE_1.assign(ours=TABLE_3[str(baseline_patch_size)]).rename(columns=HEADINGS)
    at_patch_size = ours.rename(columns={_heading(str(baseline_patch_size)): OURS})
    tables = [compare(title, at_patch_size, methods), compare(f"Table 3: {TITLE}, scales of ours", ours, scales)]
    return [table for table in tables if len(table.ours.columns)]


def _heading(scale: str) -> str:
    return f"p = {scale}" if scale.isdigit() else scale


def _ours(settings: Mapping[str, Any], root: Path, category: str, folder: Path) -> dict[str, float]:
    """Train and test our method at all scales, which are independent of each other."""
    names = ("patch_sizes", "output_stride", "training_mode", "lr", "lr_schedule")
    named = {name: settings[name] for name in names}
    model = UninformedStudents(replace(PRESETS["paper"], image_size=IMAGE_SIZE, **named), visualizer=False)
    engine = Engine(
        default_root_dir=folder,
        max_epochs=settings["epochs"] or PAPER_EPOCHS,
        precision=settings["precision"],
        devices=1,
        logger=False,
        callbacks=[ScaleMetrics()],
        # The metrics depend only on the order of the scores, and not on a threshold.
        limit_val_batches=0,
    )
    datamodule = _data(root, category)
    engine.fit(model, datamodule=datamodule)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    (metrics,) = engine.test(model, datamodule=datamodule, verbose=False)
    patch_sizes = settings["patch_sizes"]
    if len(patch_sizes) == 1:
        return {_heading(str(patch_sizes[0])): metrics["pixel_AUPRO"]}
    figures = {_heading(str(size)): metrics[f"p{size}_pixel_AUPRO"] for size in patch_sizes}
    # Other scales together have no column in the paper.
    return figures | ({"multi-scale": metrics["pixel_AUPRO"]} if len(patch_sizes) == len(TABLE_3.columns) - 1 else {})


def _descriptors(
    settings: Mapping[str, Any], method: Method, root: Path, category: str, folder: Path
) -> dict[str, float]:
    """Fit a method to the teacher's descriptors of the training images, and score the test images."""
    patch_size, stride = settings["baseline_patch_size"], settings["output_stride"]
    teacher = load_teacher(teacher_path(BUNDLED, patch_size), patch_size, 128).to(device())
    most = settings["baseline_descriptors"] or (MOST_DESCRIPTORS if method in TRAINED else DESCRIPTORS)
    model = DescriptorMethod(method)
    _fit(model, lambda images: _describe(teacher, images, stride).flatten(0, -2), most, root, category)

    def score(images: torch.Tensor) -> torch.Tensor:
        descriptors = _describe(teacher, images, stride)
        scores = model(descriptors.flatten(0, -2)).view(descriptors.shape[:-1])
        return upsample(scores.unsqueeze(1), stride, images.shape[-2:])

    return {HEADINGS[method]: aupro(score, _data(root, category), _normalised())}


def _feature_dictionary(
    settings: Mapping[str, Any], resnet18: Path | None, root: Path, category: str, folder: Path
) -> dict[str, float]:
    network = timm.create_model("resnet18", pretrained=resnet18 is None, num_classes=0)
    if resnet18 is not None:
        network.load_state_dict(load_file(resnet18), strict=False)
    # The paper has every fourth pixel too.
    model = FeatureDictionary(network, output_stride=max(4, settings["output_stride"])).to(device())
    _fit(model, model.describe, settings["baseline_descriptors"] or DESCRIPTORS, root, category)
    return {HEADINGS["cnn_feature_dictionary"]: aupro(model, _data(root, category), _normalised())}


def _ssim_autoencoder(epochs: int, root: Path, category: str, folder: Path) -> dict[str, float]:
    """Train on textures in patches of images of twice the size, on objects as a whole (MVTec AD paper, Section 4.1)."""
    is_texture = category in TEXTURES
    transform = Resize(([2 * IMAGE_SIZE] if is_texture else [IMAGE_SIZE]) * 2, antialias=True)
    model = SSIMAutoencoder(128 if is_texture else 256).to(device())
    datamodule = _data(root, category, SSIM_BATCH)
    model.fit(lambda: (transform(batch.image).to(device()) for batch in datamodule.train_dataloader()), epochs)
    return {HEADINGS["ssim_autoencoder"]: aupro(model, datamodule, transform)}


def _data(root: Path, category: str, batch_size: int = 1) -> MVTec:
    datamodule = MVTec(root, category, train_batch_size=batch_size, eval_batch_size=1, num_workers=WORKERS)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def _normalised() -> Transform:
    """Resize and normalise images as for our method."""
    return AnomalibModule.configure_pre_processor((IMAGE_SIZE, IMAGE_SIZE)).transform


@torch.no_grad()
def _describe(teacher: PatchNetwork, images: torch.Tensor, output_stride: int) -> torch.Tensor:
    """Describe every s-th pixel of images, of shape ``(B, h, w, d)``."""
    return dense_descriptors(teacher, images, output_stride).movedim(1, -1)


def _fit(model: nn.Module, describe: Score, most: int, root: Path, category: str) -> None:
    """Fit a model to at most so many descriptors, the same number from each training image."""
    datamodule = _data(root, category)
    from_each = -(-most // len(datamodule.train_data))
    sample, transform = [], _normalised()
    for batch in tqdm(datamodule.train_dataloader(), desc="Describing", leave=False):
        descriptors = describe(transform(batch.image).to(device()))
        sample.append(descriptors[torch.randperm(len(descriptors))[:from_each].to(descriptors.device)])
    model.fit(torch.cat(sample)[:most])


@torch.no_grad()
def aupro(score: Score, datamodule: MVTec, transform: Transform) -> float:
    """Measure the AUPRO up to a false positive rate of 0.3 of anomaly maps ``(B, 1, H, W)`` on the test images."""
    metric = create_metrics()[-1]
    for batch in tqdm(datamodule.test_dataloader(), desc="Scoring", leave=False):
        images, masks = transform(batch.image, batch.gt_mask)
        maps = score(images.to(device())).squeeze(1).cpu()
        metric.update(ImageBatch(image=images, gt_label=batch.gt_label, gt_mask=masks, anomaly_map=maps))
    return float(metric.compute())
