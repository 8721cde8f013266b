"""Test results of a model, image by image, from a test by anomalib's engine, and the thresholds that decided them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.data.utils import ValSplitMode
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from PIL import Image
from torchvision.transforms.v2 import Normalize

from anomalib_students.model.post_processor import Decision

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

OUTCOMES: dict[tuple[bool, bool | None], str] = {
    (False, True): "false alarm",
    (True, False): "missed",
    (True, True): "found",
    (False, False): "passed",
    (True, None): "defective",
    (False, None): "good",
}
"""By whether an image is defective, and whether it is called anomalous; in the order in which they are shown."""
UNRECORDED = Decision("f1")  # That of anomalib's own post-processor, which does not record how it has set a threshold.


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
        """Folder, which is the type of the defect, and name: ``crack/000``."""
        return "/".join(self.path.with_suffix("").parts[-2:])

    @property
    def kind(self) -> str:
        """Name of the folder: the type of defect, or what good images are called."""
        return self.path.parent.name

    @property
    def outcome(self) -> str:
        """One of :data:`OUTCOMES`."""
        return OUTCOMES[self.is_defective, self.is_alarm]


class Thresholds(NamedTuple):
    """Thresholds of images and pixels on the scale of the scores, None if there are none, and how they were chosen."""

    score: float | None = None
    pixel: float | None = None
    decision: Decision = UNRECORDED


class _Collector(Visualizer):
    """Keep the results of a test, in place of the model's visualizer, which is called after the post-processor."""

    def __init__(self, has_threshold: bool) -> None:
        self._has_threshold = has_threshold
        self.results: list[ImageResult] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        del trainer, outputs, args
        for item in batch:
            picture = Image.fromarray((visible_image(pl_module, item.image) * 255).round().astype(np.uint8))
            picture.thumbnail((256, 256))
            self.results.append(
                ImageResult(
                    path=Path(str(item.image_path)),
                    is_defective=bool(item.gt_label),
                    score=float(item.pred_score),
                    is_alarm=bool(item.pred_label) if self._has_threshold else None,
                    picture=np.asarray(picture),
                    anomaly_map=None if item.anomaly_map is None else item.anomaly_map.float().cpu().squeeze(),
                    mask=None if item.gt_mask is None else item.gt_mask.cpu().squeeze() > 0,
                )
            )


def read_results(
    model: AnomalibModule, datamodule: AnomalibDataModule, has_threshold: bool, **trainer_arguments: Any
) -> list[ImageResult]:
    """Test a model with anomalib's engine; raise a ``ValueError`` if there are no test images."""
    # It takes seconds to import.
    from anomalib.engine import Engine

    collector = _Collector(has_threshold)
    evaluator, visualizer = model.evaluator, model.visualizer
    model.evaluator, model.visualizer = None, collector  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(default_root_dir=folder, **{"devices": 1, "logger": False, **trainer_arguments})
            engine.test(model, datamodule=datamodule, verbose=False)
    finally:
        model.evaluator, model.visualizer = evaluator, visualizer
    if not collector.results:
        raise ValueError(f"The data {datamodule.name} have no test images.")
    return collector.results


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
    post_processor: Any = model.post_processor
    if post_processor is None or not post_processor.enable_thresholding:
        return Thresholds()
    score, pixel = (
        None
        if getattr(post_processor, f"{kind}_threshold").isnan()
        else float(getattr(post_processor, f"normalized_{kind}_threshold"))
        for kind in ("image", "pixel")
    )
    return Thresholds(score, pixel, getattr(post_processor, "decision", None) or UNRECORDED)


def remarks(thresholds: Thresholds, datamodule: AnomalibDataModule) -> list[str]:
    """Explain in sentences how thresholds were set, and what makes numbers look better than they are."""
    sentences = [str(thresholds.decision)]
    if thresholds.score is None:
        sentences = ["The model has no threshold: a training sets one if it has images to set it from."]
    elif thresholds.decision.rule == "f1" and datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST:
        sentences.append("The validation images are the test images: expect more mistakes on new images than here.")
    return sentences
