"""Train and test one configuration on one category from one seed: the job that ``detection.py`` runs in a process.

The job is given as JSON with all that it depends on, so that edits of the table of configurations do not affect running
jobs. It computes in one thread, trains through anomalib's engine without validation, and tests with the model in
PyTorch in float32.
"""

import hashlib
import inspect
import json
import sys
import time
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch, MVTec, SampleParts
from anomalib.data.datasets.base import image as image_dataset
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore, UninformedStudents
from anomalib.models.components import AnomalibModule, KCenterGreedy
from lightning.pytorch import seed_everything
from measuring import commit, count_operations, machine
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_f1_score
from torchvision.transforms.v2.functional import to_dtype, to_image
from torchvision.tv_tensors import Mask

from anomalib_students.data.parts import Parts
from anomalib_students.files import replace_file
from anomalib_students.model.anomaly_map import image_score
from anomalib_students.model.hold_out import sample_learnt, split_indices
from anomalib_students.model.metrics import create_metrics
from anomalib_students.model.post_processor import FalseAlarmPostProcessor
from anomalib_students.model.settings import PRESETS, Preset
from anomalib_students.model.training import TRAINING_IMAGES
from anomalib_students.networks.weights import teacher_path

MODELS: dict[str, type[AnomalibModule]] = {
    "UninformedStudents": UninformedStudents,
    "Padim": Padim,
    "Patchcore": Patchcore,
}
BRIGHTNESS = (0.8, 0.9, 1.1, 1.2)
FRACTIONS = (0, 0.003, 0.01, 0.03, 0.1)
"""Fractions of the image whose mean is tried as its score; 0 for the maximum of the map."""
RATE = 0.01
"""Rate of false alarms at which masks are compared."""
COMPONENTS = {"pre_processor", "post_processor", "evaluator", "visualizer"}


class Job(NamedTuple):
    """What is trained and tested, as values of JSON.

    Attributes:
        configuration: Row of the table of configurations: the model's class and arguments, and the trainer's.
        category: Folder in ``root``, the path of a folder in MVTec AD's layout, or ``SampleParts``.
        seed: Seed of the training.
        root: Folder of MVTec AD.
        resnet18: File of the ResNet-18 for anomalib's models.
        brightness: Whether to test with other brightness too.
        output: File of the result.
    """

    configuration: dict[str, Any]
    category: str
    seed: int
    root: str
    resnet18: str | None
    brightness: bool
    output: str

    def is_done(self) -> bool:
        """Whether there is a result with these settings, and with the other brightness if it is asked for."""
        if not Path(self.output).is_file():
            return False
        result = json.loads(Path(self.output).read_text())
        is_complete = "image_AUROC_by_brightness" in result or not self.brightness
        return is_complete and result["settings"] == settings(self.configuration, self.resnet18)


def main(job: Job) -> None:
    """Run the job and write its result, whole or not at all."""
    torch.set_num_threads(1)
    cache_images()
    hasten_coreset()
    seed_everything(job.seed)
    model = make_model(job.configuration, job.resnet18)
    datamodule = make_datamodule(job)
    result = {
        "category": Path(job.category).name,
        "seed": job.seed,
        "settings": settings(job.configuration, job.resnet18),
        "machine": machine(torch.device("cpu")),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        **train(model, datamodule, job.configuration.get("trainer", {})),
        **test(model, datamodule, BRIGHTNESS if job.brightness else ()),
    }
    if isinstance(model, UninformedStudents):
        torch.save(model.state_dict(), Path(job.output).with_suffix(".pt"))
    replace_file(Path(job.output), json.dumps(result, indent=1).encode())


def settings(configuration: dict[str, Any], resnet18: str | None) -> dict[str, Any]:
    """List the settings that a result depends on, with default arguments and fingerprints of weight files."""
    kind = configuration.get("model", "UninformedStudents")
    parameters = inspect.signature(MODELS[kind].__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in COMPONENTS}
    arguments = {**defaults, **configuration.get("arguments", {})}
    described = {**configuration, "model": kind, "arguments": arguments, "weights": {}}
    if kind != "UninformedStudents":
        described["weights"] = {"resnet18": digest(resnet18)}
    else:
        if not {"max_epochs", "max_steps", "max_time"} & configuration.get("trainer", {}).keys():
            described["images"] = TRAINING_IMAGES
        named = students(**{**configuration.get("arguments", {}), "teacher": None}).settings
        described["arguments"] = {**arguments, **asdict(named)}
        if (teacher := arguments["teacher"]) is not None:
            paths = {size: teacher_path(teacher, size, named.architecture) for size in named.patch_sizes}
            described["weights"] = {size: digest(path) for size, path in paths.items()}
    return json.loads(json.dumps(described, default=str))


@cache
def digest(path: str | Path | None) -> str | None:
    """Fingerprint of a file."""
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def students(preset: Preset = "default", **arguments: Any) -> UninformedStudents:
    """Make an untrained model of ours; settings that are no arguments of the model may be named too."""
    parameters = inspect.signature(UninformedStudents).parameters
    others = {name: value for name, value in arguments.items() if name not in parameters}
    named = {name: value for name, value in arguments.items() if name in parameters}
    return UninformedStudents(replace(PRESETS[preset], **others), **named)


def make_model(configuration: dict[str, Any], resnet18: str | None) -> AnomalibModule:
    """Make an untrained model."""
    model_class = MODELS[configuration.get("model", "UninformedStudents")]
    arguments = dict(configuration.get("arguments", {}))
    if "side" in configuration:
        side = configuration["side"]
        arguments["pre_processor"] = model_class.configure_pre_processor((side, side))
    make = students if model_class is UninformedStudents else model_class
    model = make(**arguments, visualizer=False)
    if resnet18 is not None and not isinstance(model, UninformedStudents):
        load_backbone(model, resnet18)
    return model


def load_backbone(model: AnomalibModule, path: str) -> None:
    """Load a ResNet-18 into the feature extractor of Padim or Patchcore, which keep it in evaluation mode."""
    backbone = model.model.feature_extractor.feature_extractor
    missing, _ = backbone.load_state_dict(load_file(path), strict=False)
    if missing:
        msg = f"{path} lacks weights of the backbone: {', '.join(missing)}."
        raise ValueError(msg)


def make_datamodule(job: Job) -> AnomalibDataModule:
    """Make the data module of a category, which may have no masks."""
    arguments = {"num_workers": 0, **job.configuration.get("data", {})}
    if job.category == "SampleParts":
        return SampleParts(**arguments)
    # A category's name leaves the root as it is, the path of a folder replaces it.
    folder = Path(job.root) / job.category
    if not (folder / "ground_truth").is_dir():
        return Parts(root=folder, **arguments)
    return MVTec(root=folder.parent, category=folder.name, **arguments)


def cache_images() -> None:
    """Make anomalib's data sets decode each image once, and keep it with 8 bits a channel."""

    @cache
    def decode(path: str) -> torch.Tensor:
        return to_image(Image.open(path).convert("RGB"))

    def read_image(path: str | Path, as_tensor: bool = True) -> torch.Tensor:
        del as_tensor
        return to_dtype(decode(str(path)), torch.float32, scale=True)

    image_dataset.read_image = read_image
    image_dataset.read_mask = cache(image_dataset.read_mask)


def hasten_coreset() -> None:
    """Make Patchcore choose the same descriptors in a fifth of the time, with distances computed as a product."""

    def update_distances(sampler: KCenterGreedy, cluster_center: torch.Tensor) -> None:
        if sampler.min_distances is None:
            sampler.squares = sampler.features.square().sum(dim=1)
            sampler.min_distances = torch.full((len(sampler.features), 1), torch.inf)
        center = sampler.features[cluster_center]
        squares = torch.addmv(sampler.squares, sampler.features, center, alpha=-2).add_(center @ center)
        torch.minimum(sampler.min_distances, squares.clamp_min_(0).sqrt_()[:, None], out=sampler.min_distances)

    KCenterGreedy.update_distances = update_distances


def train(model: AnomalibModule, datamodule: AnomalibDataModule, trainer: dict[str, Any]) -> dict[str, float]:
    """Train, and measure wall-clock and processor time."""
    with TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            # Nothing is saved, as a checkpoint has its own costs.
            "callbacks": [ModelCheckpoint(dirpath=folder, save_top_k=0)],
            "default_root_dir": folder,
        }
        engine = Engine(**{**arguments, **trainer})
        start, start_cpu = time.perf_counter(), time.process_time()
        engine.fit(model, datamodule=datamodule)
        return {
            "training_seconds": time.perf_counter() - start,
            "training_cpu_seconds": time.process_time() - start_cpu,
            "steps": engine.trainer.global_step,
        }


@torch.inference_mode()
def test(model: AnomalibModule, datamodule: AnomalibDataModule, brightness: tuple[float, ...]) -> dict[str, Any]:
    """Test on all images, and on images with other brightness if there are any."""
    start = time.perf_counter()
    model.eval()
    metrics = create_metrics()[1:]
    paths: list[str] = []
    labels: list[int] = []
    scores: dict[float, list[float]] = {factor: [] for factor in (1.0, *brightness)}
    by_fraction: dict[float, list[float]] = {fraction: [] for fraction in FRACTIONS}
    maps, all_masks = [], []
    has_masks = (datamodule.test_data.samples.mask_path != "").any()
    for batch in datamodule.test_dataloader():
        paths += batch.image_path
        labels += batch.gt_label.int().tolist()
        for factor in scores:
            # The masks in the size of the maps, as the engine has them.
            masks = batch.gt_mask if has_masks else torch.zeros(len(batch.image), *batch.image.shape[-2:])
            images, masks = model.pre_processor.transform((batch.image * factor).clamp(0, 1), Mask(masks))
            prediction = model.model(images)
            scores[factor] += prediction.pred_score.flatten().tolist()
            if factor == 1:
                scored = ImageBatch(image=images, gt_mask=masks, anomaly_map=prediction.anomaly_map)
                for metric in metrics if has_masks else []:
                    metric.update(scored)
                for fraction in FRACTIONS:
                    by_fraction[fraction] += image_score(prediction.anomaly_map, fraction).tolist()
                maps.append(prediction.anomaly_map.flatten())
                all_masks.append(masks.flatten() > 0)
    result: dict[str, Any] = {
        "image_AUROC": roc_auc_score(labels, scores[1.0]),
        **{metric.name: float(metric.compute()) if has_masks else float("nan") for metric in metrics},
        "gflop": count_operations(model.model, images[:1]) / 1e9,
        "image_AUROC_by_defect": by_defect(paths, labels, scores[1.0]),
    }
    if brightness:
        result["image_AUROC_by_brightness"] = {
            str(factor): roc_auc_score(labels, of_factor) for factor, of_factor in scores.items()
        }
    result["image_AUROC_by_fraction"] = {
        fraction: roc_auc_score(labels, of_fraction) for fraction, of_fraction in by_fraction.items()
    }
    result["scores"] = {"/".join(Path(p).parts[-2:]): score for p, score in zip(paths, scores[1.0], strict=True)}
    if isinstance(model, UninformedStudents) and has_masks:
        result["decision"] = decision(model, datamodule.train_data, torch.cat(maps), torch.cat(all_masks))
    result["testing_seconds"] = time.perf_counter() - start
    return result


def decision(
    model: UninformedStudents, dataset: AnomalibDataset, scores: torch.Tensor, masks: torch.Tensor
) -> dict[str, Any]:
    """Return the scores of good images for thresholds, and the F1 of the test's pixels at thresholds."""
    training, held_out = split_indices(len(dataset), model.settings.normalization_split)
    images = good_scores(model, dataset, held_out)
    sample = sample_learnt(training, len(held_out))
    learnt = good_scores(model, dataset, sample) if sample else {"score": [], "largest pixels": []}
    thresholds = {
        "that of the images": chosen_threshold(images["score"], learnt["score"]),
        "largest pixels of good images": chosen_threshold(images["largest pixels"], learnt["largest pixels"]),
        "quantile of the pixels of good images": images["quantile of the pixels"],
        "best": best_f1_threshold(scores, masks),
    }
    return {
        "held_out": images["score"],
        "training": learnt["score"],
        "pixel_F1": {name: float(binary_f1_score(scores > value, masks)) for name, value in thresholds.items()},
    }


def good_scores(model: UninformedStudents, dataset: AnomalibDataset, indices: list[int]) -> dict[str, Any]:
    """Score images of a data set and their pixels."""
    predictions = [model.model(model.pre_processor.transform(dataset[index].image[None])) for index in indices]
    maps = torch.stack([prediction.anomaly_map.flatten() for prediction in predictions])
    return {
        "score": [float(prediction.pred_score) for prediction in predictions],
        "largest pixels": maps.amax(dim=1).tolist(),
        "quantile of the pixels": float(maps.flatten().kthvalue(round((1 - RATE) * maps.numel())).values),
    }


def chosen_threshold(scores: list[float], learnt: list[float]) -> float:
    """Threshold that the model chooses, by images held out and learnt from."""
    post_processor = FalseAlarmPostProcessor(false_alarm_rate=RATE)
    post_processor.choose(torch.tensor(scores), torch.tensor(learnt))
    return float(post_processor.image_threshold)


def best_f1_threshold(scores: torch.Tensor, masks: torch.Tensor) -> float:
    """Threshold with the best F1 on the test images."""
    ordered, order = scores.sort(descending=True)
    found = masks[order].cumsum(0)
    f1 = 2 * found / (torch.arange(1, len(scores) + 1) + found[-1])
    # What is as large as the threshold is not found.
    return float(ordered[f1.argmax()].nextafter(torch.tensor(-torch.inf)))


def by_defect(paths: list[str], labels: list[int], scores: list[float]) -> dict[str, float]:
    """AUROC of the images of each type of defect against all good ones."""
    defects = [Path(path).parent.name for path in paths]
    result = {}
    for name in sorted({defect for defect, label in zip(defects, labels, strict=True) if label}):
        chosen = [index for index, label in enumerate(labels) if not label or defects[index] == name]
        result[name] = roc_auc_score([labels[i] for i in chosen], [scores[i] for i in chosen])
    return result


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
