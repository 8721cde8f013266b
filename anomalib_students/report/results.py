"""Test results of a model, image by image, from a test by anomalib's engine, and the thresholds that decided them."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.data.utils import ValSplitMode
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torchvision.transforms.v2 import Normalize

from anomalib_students.model.post_processor import Decision

from .pictures import thumbnail


class ImageResult(NamedTuple):
    """A test image ``(h, w, 3)`` as the model sees it, made small, with its predictions and ground truth.

    ``is_alarm`` is None without a threshold. Anomaly map and mask have the shape ``(H, W)``, or are None.
    """

    path: Path
    is_defective: bool
    score: float
    is_alarm: bool | None
    picture: np.ndarray
    anomaly_map: torch.Tensor | None
    mask: torch.Tensor | None

    @property
    def name(self) -> str:
        """Folder and name."""
        return name_of(self.path)

    @property
    def kind(self) -> str:
        """Name of the folder: the type of defect, or what good images are called."""
        return self.path.parent.name


class Thresholds(NamedTuple):
    """Thresholds of images and pixels on the scale of the scores that the post-processor returns.

    They are None if the model has none; ``decision`` is None if the post-processor does not record how they were set.
    """

    score: float | None
    pixel: float | None
    decision: Decision | None = None

    @property
    def expected(self) -> tuple[float, float, float] | None:
        """Target rate of false alarms and its 90 % interval; None if the checkpoint has none."""
        if self.score is None or self.decision is None or not math.isfinite(self.decision.false_alarm_rate):
            return None
        return self.decision.false_alarm_rate, self.decision.lower, self.decision.upper


class _Collector(Visualizer):
    """Keep the results of a test, in place of the model's visualizer, which is called after the post-processor."""

    def __init__(self, has_threshold: bool) -> None:
        self._has_threshold = has_threshold
        self.results: list[ImageResult] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        """Keep the results of a batch."""
        del trainer, outputs, args
        for item in cast("Iterable[Any]", batch):
            self.results.append(
                ImageResult(
                    path=Path(str(item.image_path)),
                    is_defective=bool(item.gt_label),
                    score=float(item.pred_score),
                    is_alarm=bool(item.pred_label) if self._has_threshold else None,
                    picture=thumbnail(visible_image(pl_module, item.image)),
                    anomaly_map=None if item.anomaly_map is None else item.anomaly_map.float().cpu().squeeze(),
                    mask=None if item.gt_mask is None else item.gt_mask.cpu().squeeze() > 0,
                )
            )


def read_results(
    model: AnomalibModule, datamodule: AnomalibDataModule, has_threshold: bool, **trainer_arguments: Any
) -> list[ImageResult]:
    """Test a model with anomalib's engine, and return the results in the order of the data.

    The model's own pre- and post-processor are used. Raises a ``ValueError`` if there are no test images.
    """
    # It takes seconds to import.
    from anomalib.engine import Engine

    find_test_images(datamodule)
    collector = _Collector(has_threshold)
    evaluator, visualizer = model.evaluator, model.visualizer
    model.evaluator, model.visualizer = None, collector  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(default_root_dir=folder, **{"devices": 1, "logger": False, **trainer_arguments})
            engine.test(model, datamodule=datamodule, verbose=False)
    finally:
        model.evaluator, model.visualizer = evaluator, visualizer
    return collector.results


def find_test_images(datamodule: AnomalibDataModule) -> AnomalibDataset:
    """Return the test images of a data module, with their ground truth. Raises a ``ValueError`` for none."""
    datamodule.prepare_data()
    datamodule.setup()
    dataset = datamodule.test_data
    if len(dataset) == 0:
        msg = f"The data {datamodule.name} have no test images."
        raise ValueError(msg)
    return dataset


def name_of(path: str | Path) -> str:
    """Name an image in a figure by its folder, which is the type of its defect, and its name: ``crack/000``."""
    path = Path(path)
    return f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem


def visible_image(model: AnomalibModule, image: torch.Tensor) -> np.ndarray:
    """Turn a pre-processed image ``(3, H, W)`` into RGB ``(H, W, 3)`` in [0, 1], in the colours that it was read in."""
    image = image.float().cpu()
    transform = model.pre_processor.transform if isinstance(model.pre_processor, PreProcessor) else None
    for normalisation in extract_transforms_by_type(transform, Normalize):
        mean, std = (image.new_tensor(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
        image = image * std + mean
    return image.clamp(0, 1).permute(1, 2, 0).numpy()


def find_thresholds(model: AnomalibModule) -> Thresholds:
    """Read the thresholds from the post-processor of a model."""
    post_processor = cast("PostProcessor | None", model.post_processor)
    if post_processor is None or not post_processor.enable_thresholding:
        return Thresholds(None, None)
    score, pixel = (
        None if getattr(post_processor, f"{kind}_threshold").isnan() else float(normalised)
        for kind, normalised in (
            ("image", post_processor.normalized_image_threshold),
            ("pixel", post_processor.normalized_pixel_threshold),
        )
    )
    return Thresholds(score, pixel, getattr(post_processor, "decision", None))


def provenance(thresholds: Thresholds, datamodule: AnomalibDataModule) -> list[str]:
    """Explain in sentences how thresholds were set, and what that means for the numbers of a test."""
    if thresholds.score is None:
        return ["The model has no threshold: a training sets one if it has images to set it from."]
    # anomalib's own post-processor does not record how it has set a threshold.
    decision = thresholds.decision or Decision("f1")
    sentences = [str(decision)]
    if decision.rule == "f1" and datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST:
        sentences.append(
            "By the settings of the data, the validation images are the test images: expect more mistakes on new "
            "images than here."
        )
    return sentences
