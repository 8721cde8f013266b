"""What a model makes of the test images of its data: anomalib's engine tests, and the results are kept."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer

from anomalib_students.figures.examples import find_test_images, name_of
from anomalib_students.figures.scores import visible_image

from .pictures import thumbnail

__all__ = ["ImageResult", "read_results"]


class ImageResult(NamedTuple):
    """A test image and what the model makes of it.

    Attributes:
        path: Path of its file.
        is_defective: Ground truth.
        score: Score, as the post-processor of the model has it.
        is_alarm: Whether the model calls it anomalous; None if the model has no threshold.
        picture: Small RGB image of shape ``(h, w, 3)``, as the model sees it.
        anomaly_map: Anomaly map of shape ``(H, W)``; None if the model has none.
        mask: Ground truth of the pixels, of shape ``(H, W)``; None if it is not known.
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
        """Its folder and its name."""
        return name_of(self.path)

    @property
    def kind(self) -> str:
        """Type of its defect, or what good images are called: the name of its folder."""
        return self.path.parent.name


class ResultCollector(Visualizer):
    """Keep the results of a test.

    It takes the place of the model's visualizer, which is called after the post-processor.

    Args:
        has_threshold: Whether the labels that the model predicts mean something.

    Attributes:
        results: Results in the order of the images.
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
        """Keep the results of a batch.

        Args:
            trainer: Trainer that runs the test.
            pl_module: Model under test.
            outputs: Predictions.
            batch: Batch with predictions and ground truth.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the data loader.
        """
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
    """Test a model with anomalib's engine, and with the model's own pre- and post-processor.

    Args:
        model: Trained model.
        datamodule: Data module, set up or not.
        has_threshold: Whether the labels that the model predicts mean something.
        trainer_arguments: Arguments of Lightning's trainer.

    Returns:
        Results of all test images, in the order of the data.

    Raises:
        OSError: If the data cannot be found.
        ValueError: If there are no test images, or one of them cannot be read.
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
    """Put the collector in the place of what else looks at predictions."""
    evaluator, visualizer = model.evaluator, model.visualizer
    model.evaluator, model.visualizer = None, collector  # type: ignore[assignment]
    try:
        yield
    finally:
        model.evaluator, model.visualizer = evaluator, visualizer
