"""Train an ensemble for each category and patch size, merge the scales of each category, and test the models."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import ray
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from jsonargparse import Namespace
from ray.train import Checkpoint

from anomalib_students.data.data_check import check_data
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.model.merge import merge_scales
from anomalib_students.report.page import write_report

from .fit import CHECKPOINT, create_datamodule, create_model, fit
from .pretrain import pretrain_teacher
from .storage import RESULT
from .workers import Task, run_on_workers, run_tasks

METRICS = ["image_AUROC", "pixel_AUROC", "pixel_AUPRO"]


def train_categories(settings: Namespace, pretraining: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Train, merge and test models, with new teachers if there is ``pretraining``; return failures by category."""
    storage, sizes = settings.storage, sorted(settings.patch_sizes)
    teachers_folder = storage.folder / "teachers" if pretraining else Path()
    decisive = {name: settings[name] for name in ("data", "model", "trainer", "seed", "workers")}
    storage.begin({**decisive, "patch_sizes": sizes, "pretraining": pretraining})
    categories = {category or "data": category for category in settings.categories or [None]}
    results = {name: storage.read_json(f"{name}/{RESULT}") for name in categories}
    to_do = {name: category for name, category in categories.items() if results[name] is None}
    new_teachers = sizes if pretraining and to_do else []
    failures: dict[str, str] = {}

    def submit() -> Iterator[Task]:
        teachers: dict[int, Any] = {}
        for size in new_teachers:
            teachers[size] = pretrain_teacher.remote(settings, pretraining or {}, size, teachers_folder)
            yield f"teacher, p = {size}", teachers[size], True
        for name, category in to_do.items():
            checked = check.remote(settings, category, bool(teachers))
            yield f"{name}, check of the data", checked, False
            trained = []
            for size in sizes:
                trained.append(train_scale.remote(settings, name, category, size, teachers.get(size), checked))
                yield f"{name}, p = {size}", trained[-1], True
            resources = {"num_cpus": settings.cpus_per_worker, "num_gpus": settings.gpus_per_worker}
            yield name, finish.options(**resources).remote(settings, name, category, *trained), False

    def write_results() -> None:
        for file, content in results_files([result for result in results.values() if result], failures).items():
            storage.write(file, content)

    write_results()
    n_tasks = len(new_teachers) + len(to_do) * (len(sizes) + 2)
    for name, result, reason in run_tasks(submit(), n_tasks, settings):
        if name in results:
            results[name] = result
            failures |= {name: reason} if reason else {}
            write_results()
    return failures


@ray.remote
def check(settings: Namespace, category: str | None, has_new_teachers: bool) -> None:
    """Check that the models can be made and the data can be read, before workers start."""
    for size in settings.patch_sizes:
        # Those that are to be pretrained may not be there yet.
        create_model(settings, size, **({"teacher": None} if has_new_teachers else {}))
    datamodule = create_datamodule(settings, category)
    datamodule.prepare_data()
    datamodule.setup()
    check_data(datamodule)


@ray.remote(num_cpus=0)
def train_scale(
    settings: Namespace, name: str, category: str | None, patch_size: int, teacher: str | None, checked: None
) -> str:
    """Train an ensemble on a group of workers, unless it has a result; return the name of its last checkpoint."""
    del checked
    run = f"{name}-p{patch_size}"
    result = settings.storage.read_json(f"{run}/{RESULT}")
    if result is None:
        model = {"teacher": teacher} if teacher else {}
        config = {"settings": settings, "category": category, "patch_size": patch_size, "model": model}
        checkpoint = run_on_workers(fit, config, settings, settings.storage.location, run).checkpoint
        # Relative to the storage, which may be moved.
        result = {"checkpoint": f"{run}/{Path(cast('Any', checkpoint).path).name}"}
        settings.storage.write_json(f"{run}/{RESULT}", result)
    return result["checkpoint"]


@ray.remote
def finish(settings: Namespace, name: str, category: str | None, *checkpoints: str) -> dict[str, Any]:
    """Merge the scales of a category, test each of them and all together, and store the model and the result."""
    datamodule = create_datamodule(settings, category)
    file_system, root = settings.storage.file_system()
    models = []
    for checkpoint in checkpoints:
        with Checkpoint(f"{root}/{checkpoint}", file_system).as_directory() as saved:
            models.append(UninformedStudents.load_from_checkpoint(Path(saved, CHECKPOINT), map_location="cpu"))
    merged = merge_scales(models)
    trainer: dict[str, Any] = {"accelerator": settings.accelerator, "devices": 1, "enable_progress_bar": False}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        rows = []
        for model in [*(models if len(models) > 1 else ()), merged]:
            # It would draw a picture of every test image.
            visualizer, model.visualizer = model.visualizer, None
            engine = Engine(default_root_dir=temporary, **trainer)
            if model is merged:
                # Its threshold and the range of its scores depend on all scales together.
                engine.validate(model, datamodule=datamodule, verbose=False)
            (metrics,) = engine.test(model, datamodule=datamodule, verbose=False)
            sizes = model.model.patch_sizes
            scale = f"p = {sizes[0]}" if len(sizes) == 1 else "multi-scale"
            rows.append({"scale": scale, **{metric: metrics.get(metric) for metric in METRICS}})
            model.visualizer = visualizer
        engine.trainer.save_checkpoint(folder / "model.ckpt")
        if settings.export:
            engine.export(merged, ExportType(settings.export), export_root=folder)
        if settings.report:
            write_report(merged, datamodule, folder / "report.html", enable_model_summary=False, **trainer)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            settings.storage.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    result = {"category": category or datamodule.category or datamodule.name, "rows": rows}
    settings.storage.write_json(f"{name}/{RESULT}", result)
    return result


def results_files(results: Sequence[Mapping[str, Any]], failures: Mapping[str, str]) -> dict[str, bytes]:
    """Make tables with a row of metrics for each category and scale; ``results.md`` has means and failures too."""
    rows = [{"category": result["category"], **row} for result in results for row in result["rows"]]
    table = pd.DataFrame(rows, columns=["category", "scale", *METRICS])
    means = table.groupby("scale", sort=False)[METRICS].mean().reset_index().assign(category="mean")
    shown = pd.concat([table, means])[table.columns] if len(results) > 1 else table
    failed = "".join(f"- {category} failed: {reason}\n" for category, reason in sorted(failures.items()))
    return {
        "results.csv": table.to_csv(index=False).encode(),
        "results.json": table.to_json(orient="records", indent=2).encode(),
        "results.md": f"{shown.to_markdown(index=False, floatfmt='.3f')}\n\n{failed}".encode(),
    }
