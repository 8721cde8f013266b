"""Finish a category: merge its scales, test and export the model, and keep its best and its worst heat map."""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics.functional.classification import binary_auroc

from anomalib_students.figures.examples import find_test_images, named_images, read_examples
from anomalib_students.figures.panels import draw_panels
from anomalib_students.figures.rendering import png_bytes
from anomalib_students.figures.scores import score_image
from anomalib_students.model.anomaly_map import MULTI_SCALE
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.model.merge import merge_scales
from anomalib_students.model.scale_metrics import ScaleMetrics
from anomalib_students.report.write import write_report

from .experiment import Experiment, label
from .jobs import Compute
from .storage import Storage
from .training import MODEL

__all__ = ["finish_category", "merge_checkpoints", "report_of"]

METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")


class BestAndWorst(Callback):
    """Find the defective test images whose anomaly maps have the largest and smallest AUROC of their own pixels."""

    def __init__(self) -> None:
        self.areas: dict[str, float] = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the AUROC of each defective image."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        if batch.gt_mask is None or batch.anomaly_map is None or batch.image_path is None:
            return
        for path, anomaly_map, mask in zip(batch.image_path, batch.anomaly_map, batch.gt_mask, strict=True):
            if mask.any():
                self.areas[path] = float(binary_auroc(anomaly_map.flatten(), mask.flatten().int()))

    def save(self, folder: Path, model: UninformedStudents, datamodule: AnomalibDataModule) -> None:
        """Draw the two images, their ground truth and their anomaly maps: ``best.png`` and ``worst.png``."""
        if not self.areas:
            return
        test_images = find_test_images(datamodule)
        for name, choose in (("best", max), ("worst", min)):
            chosen = named_images(test_images, [Path(choose(self.areas, key=self.areas.__getitem__))])
            scored = [score_image(model, batch) for batch in read_examples(chosen)]
            (folder / f"{name}.png").write_bytes(png_bytes(draw_panels(scored)))


def merge_checkpoints(paths: Iterable[Path]) -> UninformedStudents:
    """Join the scales of trained models (eq. 12)."""
    models = [UninformedStudents.load_from_checkpoint(path, map_location="cpu") for path in paths]
    return merge_scales(cast("list[UninformedStudents]", models))


def report_of(
    model: AnomalibModule, datamodule: AnomalibDataModule, folder: Path, accelerator: str, precision: str
) -> None:
    """Write ``report.html`` of a model."""
    write_report(
        model,
        datamodule,
        folder / "report.html",
        accelerator=accelerator,
        precision=precision,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def finish_category(
    experiment: Experiment, category: str | None, checkpoints: Mapping[int, str], storage: Storage, compute: Compute
) -> dict[str, Any]:
    """Merge the scales of a category, and measure them on its test set, alone and together.

    The model, its best and worst heat maps and, if asked for, its export and report are stored in the folder of the
    category. ``checkpoints`` are paths in the storage by patch size.
    """
    merged = _merge(checkpoints.values(), storage)
    # Two heat maps are kept, and drawn without the visualizer.
    visualizer, merged.visualizer = merged.visualizer, None
    datamodule = experiment.create_datamodule(category)
    precision = experiment.trainer.get("precision", "32-true")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        extremes = BestAndWorst()
        engine = Engine(
            default_root_dir=folder / "engine",
            callbacks=[ScaleMetrics(), extremes],
            accelerator=compute.accelerator,
            devices=1,
            enable_progress_bar=False,
            precision=precision,
        )
        # Set the threshold and the range of the combined scores.
        engine.validate(merged, datamodule=datamodule, verbose=False)
        (metrics,) = engine.test(merged, datamodule=datamodule, verbose=False)

        merged.visualizer = visualizer
        finished = folder / "finished"
        finished.mkdir()
        engine.trainer.save_checkpoint(finished / MODEL)
        extremes.save(finished, merged, datamodule)
        if experiment.export:
            engine.export(merged, ExportType(experiment.export), export_root=finished)
        if experiment.report:
            report_of(merged, datamodule, finished, compute.accelerator, precision)
        _upload(finished, storage, label(category))
    name = category or datamodule.category or datamodule.name
    return {"category": name, "rows": _rows(metrics, list(checkpoints))}


def _merge(paths: Iterable[str], storage: Storage) -> UninformedStudents:
    """Load the last checkpoints of runs of Ray Train, and merge their scales."""
    from ray.train import Checkpoint
    from ray.train.lightning import RayTrainReportCallback

    file_system, _ = storage.file_system()
    with ExitStack() as folders:
        return merge_checkpoints(
            Path(folders.enter_context(Checkpoint(path, file_system).as_directory()))
            / RayTrainReportCallback.CHECKPOINT_NAME
            for path in paths
        )


def _rows(metrics: Mapping[str, float], patch_sizes: list[int]) -> list[dict[str, Any]]:
    """Make a row of metrics for each scale and, if there are several, for all together."""
    if len(patch_sizes) == 1:
        return [{"scale": str(patch_sizes[0]), **{name: metrics.get(name) for name in METRICS}}]
    prefixes = {str(size): f"p{size}_" for size in sorted(patch_sizes)} | {MULTI_SCALE: ""}
    return [
        {"scale": scale, **{name: metrics.get(prefix + name) for name in METRICS}} for scale, prefix in prefixes.items()
    ]


def _upload(folder: Path, storage: Storage, destination: str) -> None:
    """Copy the files of a folder to the storage, each whole or not at all."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        storage.write(f"{destination}/{path.relative_to(folder).as_posix()}", path.read_bytes())
