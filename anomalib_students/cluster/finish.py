"""Finish a category: merge its scales, test the model, export it, and keep its best and its worst heat map."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from anomalib.data import ImageBatch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.visualization.image.item_visualizer import visualize_image_item
from lightning.pytorch import Callback, LightningModule, Trainer
from pyarrow.fs import FileSystem, LocalFileSystem, copy_files
from ray.train import Checkpoint
from ray.train.lightning import RayTrainReportCallback
from torchmetrics.functional.classification import binary_auroc

from anomalib_students.lightning_model import UninformedStudents
from anomalib_students.merge import merge_scales
from anomalib_students.scale_metrics import ScaleMetrics

from .experiment import Experiment, label
from .storage import RESULTS, write_json

__all__ = ["MODEL", "finish_category"]

MODEL = "model.ckpt"
METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
MERGED = "multi-scale"


class BestAndWorst(Callback):
    """Keep the defective test images whose defects stand out best and worst in their own anomaly maps."""

    def __init__(self) -> None:
        # With their batches, to which the post-processor is still to add the normalised maps and the masks.
        self._kept: list[tuple[float, ImageBatch, int]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare the images of a batch with those kept.

        Args:
            trainer: Trainer that runs the test.
            pl_module: Model under test.
            outputs: Predictions.
            batch: Batch with predictions and ground truth.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the data loader.
        """
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        if batch.gt_mask is None or batch.anomaly_map is None:
            return
        for index, (anomaly_map, mask) in enumerate(zip(batch.anomaly_map, batch.gt_mask, strict=True)):
            if mask.any():
                area = float(binary_auroc(anomaly_map.flatten(), mask.flatten().int()))
                self._kept.append((area, batch, index))
        self._kept.sort(key=lambda kept: kept[0])
        self._kept = [*self._kept[:1], *self._kept[1:][-1:]]

    def save(self, folder: Path) -> None:
        """Draw image, ground truth, anomaly map and prediction of each of the two side by side.

        Args:
            folder: Folder for ``best.png`` and ``worst.png``.
        """
        if not self._kept:
            return
        for name, (_, batch, index) in (("worst", self._kept[0]), ("best", self._kept[-1])):
            picture = visualize_image_item(
                batch.items[index],
                fields=["image", "gt_mask"],
                overlay_fields=[("image", ["anomaly_map"]), ("image", ["pred_mask"])],
            )
            if picture is not None:
                picture.save(folder / f"{name}.png")


def finish_category(experiment: Experiment, category: str | None, checkpoints: Mapping[int, str]) -> dict[str, Any]:
    """Merge the scales of a category and measure them, alone and together, on its test set.

    Into the folder of the category in the storage go the model, an ordinary checkpoint of anomalib's; the heat maps of
    the images on which it does best and worst; its export; and at last, as a sign that all is there, the results.

    Args:
        experiment: Settings of the grid.
        category: Name of the category.
        checkpoints: Path in the storage of the last checkpoint of each patch size.

    Returns:
        Name of the category, and rows with the metrics of each scale and of all together.
    """
    file_system, root = experiment.storage()
    merged = merge_scales([_load(Checkpoint(path, file_system)) for path in checkpoints.values()])
    # Two heat maps are kept, and drawn without it.
    visualizer, merged.visualizer = merged.visualizer, None
    datamodule = experiment.create_datamodule(category)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        extremes = BestAndWorst()
        engine = Engine(
            default_root_dir=folder / "engine",
            accelerator="gpu" if experiment.workers.gpus else "cpu",
            devices=1,
            callbacks=[ScaleMetrics(), extremes],
            enable_progress_bar=False,
            **{name: value for name, value in experiment.trainer.items() if name == "precision"},
        )
        # The threshold and the range of the combined scores.
        engine.validate(merged, datamodule=datamodule, verbose=False)
        (metrics,) = engine.test(merged, datamodule=datamodule, verbose=False)

        merged.visualizer = visualizer
        finished = folder / "finished"
        finished.mkdir()
        engine.trainer.save_checkpoint(finished / MODEL)
        extremes.save(finished)
        if experiment.export:
            engine.export(merged, ExportType(experiment.export), export_root=finished)
        name = category or datamodule.category or datamodule.name
        results = {"category": name, "rows": _rows(metrics, list(checkpoints))}
        _upload(finished, results, file_system, f"{root}/{label(category)}")
    return results


def _load(checkpoint: Checkpoint) -> UninformedStudents:
    with checkpoint.as_directory() as folder:
        path = Path(folder) / RayTrainReportCallback.CHECKPOINT_NAME
        return cast("UninformedStudents", UninformedStudents.load_from_checkpoint(path, map_location="cpu"))


def _rows(metrics: Mapping[str, float], patch_sizes: list[int]) -> list[dict[str, Any]]:
    """One row for each scale, and if there are several, one for all together."""
    if len(patch_sizes) == 1:
        return [{"scale": str(patch_sizes[0]), **{name: metrics.get(name) for name in METRICS}}]
    prefixes = {str(size): f"p{size}_" for size in sorted(patch_sizes)} | {MERGED: ""}
    return [
        {"scale": scale, **{name: metrics.get(prefix + name) for name in METRICS}} for scale, prefix in prefixes.items()
    ]


def _upload(folder: Path, results: dict[str, Any], file_system: FileSystem, destination: str) -> None:
    """Copy a folder to the storage, and the results last: where they are, all is."""
    file_system.create_dir(destination)
    copy_files(str(folder), destination, source_filesystem=LocalFileSystem(), destination_filesystem=file_system)
    write_json(file_system, f"{destination}/{RESULTS}", results)
