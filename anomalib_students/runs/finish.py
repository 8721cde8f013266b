"""Finish a category: merge its scales, test and export the model."""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from anomalib.data import AnomalibDataModule
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule

from anomalib_students.model.anomaly_map import MULTI_SCALE
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.model.merge import merge_scales
from anomalib_students.model.scale_metrics import ScaleMetrics
from anomalib_students.report.page import write_report

from .experiment import Experiment, label
from .jobs import Compute
from .storage import Storage
from .training import MODEL

__all__ = ["finish_category", "merge_checkpoints", "report_of"]

METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")


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

    The model and, if asked for, its export and report are stored in the folder of the category. ``checkpoints`` are
    paths in the storage by patch size.
    """
    merged = _merge(checkpoints.values(), storage)
    # The report shows the heat maps.
    visualizer, merged.visualizer = merged.visualizer, None
    datamodule = experiment.create_datamodule(category)
    precision = experiment.trainer.get("precision", "32-true")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engine = Engine(
            default_root_dir=folder / "engine",
            callbacks=[ScaleMetrics()],
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
