r"""Measure in minutes what descriptors tell apart: a single Gaussian over them, without students.

Mean and covariance of a network's descriptors over all pixels of some good images give each pixel of the test images a
Mahalanobis distance. Its map, smoothed, is scored as an anomaly map: AUROC of the images by its largest value and by
the mean of its top 5 %, and AUPRO where there are masks, all at a quarter of the resolution. What a teacher does not
see here, no student can miss. The rows are layers of timm's networks, and the teachers of the package, on images at
full and at half side.

    python benchmarks/teachers.py --root datasets/MVTecAD --categories "[pill,screw,datasets/textures/cloth]" \
        --networks "{tf_efficientnet_lite0: path/to/lite0.safetensors, resnet18: path/to/resnet18.safetensors}"
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from jsonargparse import ArgumentParser
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur, normalize, to_dtype, to_image

from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path
from anomalib_students.trainings import has_bfloat16

SIDE = 320
"""Side in pixels that images are resized to."""
SCORED = SIDE // 4
"""Side of the maps that are scored."""
RIDGE = 1e-3
"""Variance added to that of each component, in units of their mean."""
SIGMA = 1.5
"""Deviation of the smoothing, in pixels of the maps."""
BATCH = 8

Describe = Callable[[torch.Tensor], list[torch.Tensor]]
"""Maps normalised images to maps of descriptors, one for each layer."""


def read(paths: list[Path], side: int = SIDE) -> torch.Tensor:
    """Read images, resized and normalised for ImageNet."""
    images = [
        to_image(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)) for path in paths
    ]
    pixels = to_dtype(torch.stack(images), torch.float32, scale=True)
    return normalize(pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def layers_of(name: str, weights: Path) -> Describe:
    """Make the layers of a network of timm at strides 4, 8 and 16."""
    network = timm.create_model(name, features_only=True, out_indices=(1, 2, 3))
    network.load_state_dict(load_file(weights), strict=False)
    network.eval()
    mean, std = (torch.tensor(network.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    own_mean, own_std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return lambda images: network((images * own_std + own_mean - mean) / std)


def bundled(patch_size: int) -> Describe:
    """Make a teacher of the package describe every eighth pixel."""
    dim, architecture = (208, "lean") if patch_size == 83 else (128, "paper")
    teacher = load_teacher(teacher_path(BUNDLED, patch_size, architecture), patch_size, dim, architecture)
    return lambda images: [dense_descriptors(teacher, images, output_stride=8)]


def describe(network: Describe, images: torch.Tensor, half: bool) -> list[torch.Tensor]:
    """Describe images in batches, at full or at half side."""
    if half:
        images = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch.device("cpu"))):
        batches = [network(batch) for batch in images.split(BATCH)]
    return [torch.cat(layer).float() for layer in zip(*batches, strict=True)]


def distances(descriptors: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Squared Mahalanobis distances ``(B, h, w)`` of descriptors ``(B, d, h, w)`` from those of good images."""
    vectors = good.movedim(1, -1).flatten(0, 2).double()
    mean, covariance = vectors.mean(dim=0), vectors.T.cov()
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    difference = descriptors.movedim(1, -1) - mean.float()
    return torch.einsum("...i,ij,...j->...", difference, torch.linalg.inv(covariance + ridge).float(), difference)


def judge(maps: torch.Tensor, labels: list[bool], masks: list[torch.Tensor | None]) -> tuple[float, float, float]:
    """AUROC of images by the largest value of their map, by the mean of its top 5 %, and AUPRO."""
    maps = functional.interpolate(maps[:, None], (SCORED, SCORED), mode="bilinear")
    maps = gaussian_blur(maps, 2 * round(3 * SIGMA) + 1, SIGMA)
    values = maps.flatten(1).sort(dim=1, descending=True).values
    top = values[:, : SCORED**2 // 20].mean(dim=1)
    return roc_auc_score(labels, values[:, 0]), roc_auc_score(labels, top), aupro(maps, masks)


def aupro(maps: torch.Tensor, masks: list[torch.Tensor | None]) -> float:
    """AUPRO of maps ``(B, 1, h, w)`` up to a false positive rate of 0.3; NaN without masks."""
    known = [mask for mask in masks if mask is not None]
    if len(known) < len(masks):
        return float("nan")
    metric = AUPRO(fpr_limit=0.3, fields=["anomaly_map", "gt_mask"])
    metric.update(ImageBatch(image=maps.expand(-1, 3, -1, -1), anomaly_map=maps, gt_mask=torch.stack(known)))
    return float(metric.compute())


def measure(network: Describe, folder: Path, n_images: int) -> dict[str, list[tuple[float, float, float]]]:
    """Judge the layers of a network at full and at half side on a category."""
    good = thinned(sorted((folder / "train" / "good").iterdir()), n_images)
    tested = sorted((folder / "test").iterdir())
    defective = [path for defect in tested if defect.name != "good" for path in sorted(defect.iterdir())]
    paths = thinned(sorted((folder / "test" / "good").iterdir()), n_images) + thinned(defective, n_images)
    labels = [path.parent.name != "good" for path in paths]
    masks = [mask_of(folder, path) for path in paths]
    training, testing = read(good), read(paths)
    results = {}
    for name, half in (("full", False), ("half", True)):
        layers = zip(describe(network, testing, half), describe(network, training, half), strict=True)
        results[name] = [judge(distances(descriptors, of_good), labels, masks) for descriptors, of_good in layers]
    return results


def mask_of(folder: Path, path: Path) -> torch.Tensor | None:
    """Read the mask of a test image, if there is one."""
    if path.parent.name == "good":
        return torch.zeros(SCORED, SCORED)
    masks = list((folder / "ground_truth" / path.parent.name).glob(f"{path.stem}*"))
    if not masks:
        return None
    mask = Image.open(masks[0]).convert("L").resize((SCORED, SCORED), Image.Resampling.BOX)
    return torch.from_numpy(np.array(mask) > 127).float()


def thinned(paths: list[Path], number: int) -> list[Path]:
    """Take at most so many paths, evenly."""
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, min(number, len(paths)))]


@torch.inference_mode()
def teachers(
    root: Path = Path("datasets/MVTecAD"),
    categories: tuple[str, ...] = ("pill", "screw"),
    networks: dict[str, Path] | None = None,
    bundled_teachers: tuple[int, ...] = (83,),
    n_images: int = 40,
) -> None:
    """Print a row for each layer and each teacher: image AUROC by maximum / by the top 5 %, and AUPRO.

    Args:
        root: Folder of the categories.
        categories: Folders in it, or paths of folders in MVTec AD's layout; masks may be missing.
        networks: Weights of timm's networks, by their names.
        bundled_teachers: Patch sizes of teachers of the package.
        n_images: Good images that the Gaussian is fitted to, and most good and most
            defective test images.
    """
    rows: dict[str, Describe] = {name: layers_of(name, path) for name, path in (networks or {}).items()}
    rows |= {f"teacher of p = {patch_size}": bundled(patch_size) for patch_size in bundled_teachers}
    console = Console(soft_wrap=True, highlight=False)
    console.print(" | ".join(["", *(Path(category).name for category in categories), "mean", "worst"]))
    for name, network in rows.items():
        results = [measure(network, root / category, n_images) for category in categories]
        for side in ("full", "half"):
            for layer, figures in enumerate(zip(*(result[side] for result in results), strict=True)):
                table = np.array([*figures, np.nanmean(figures, axis=0), np.nanmin(figures, axis=0)])
                cells = [" / ".join(f"{value:.3f}" for value in row) for row in table]
                console.print(" | ".join([f"{name}, layer {layer}, {side} side", *cells]))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_function_arguments(teachers, as_group=False)
    teachers(**vars(parser.parse_args()))
