"""Test results of a model, image by image, collected from a test by anomalib's engine."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from torchvision.transforms.v2 import Normalize

from .pictures import thumbnail

__all__ = ["ImageResult", "find_test_images", "name_of", "read_results", "visible_image"]


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


class ResultCollector(Visualizer):
    """Keep the results of a test in the order of the images.

    It takes the place of the model's visualizer, which is called after the post-processor. Without a threshold, the
    labels that the model predicts mean nothing.
    """

    def __init__(self, has_threshold: bool) -> None:
        self._has_threshold = has_threshold
        self.results: list[ImageResult] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the results of a batch."""
        del trainer, outputs, batch_idx, dataloader_idx
        model = cast("AnomalibModule", pl_module)
        for item in cast("Iterable[Any]", batch):
            self.results.append(
                ImageResult(
                    path=Path(str(item.image_path)),
                    is_defective=bool(item.gt_label),
                    score=float(item.pred_score),
                    is_alarm=bool(item.pred_label) if self._has_threshold else None,
                    picture=thumbnail(visible_image(model, item.image)),
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
    collector = ResultCollector(has_threshold)
    with _observed_by(model, collector), tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, **{"devices": 1, "logger": False, **trainer_arguments})
        engine.test(model, datamodule=datamodule, verbose=False)
    return collector.results


@contextmanager
def _observed_by(model: AnomalibModule, collector: ResultCollector) -> Iterator[None]:
    """Replace evaluator and visualizer by the collector."""
    evaluator, visualizer = model.evaluator, model.visualizer
    model.evaluator, model.visualizer = None, collector  # type: ignore[assignment]
    try:
        yield
    finally:
        model.evaluator, model.visualizer = evaluator, visualizer
