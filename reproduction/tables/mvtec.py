"""Tables 1 and 3: the methods, and the scales of ours, on the categories of MVTec AD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib_students.model.anomaly_map import MULTI_SCALE
from anomalib_students.paper.paper_tables import TABLE_1, TABLE_3
from anomalib_students.paper.report import Comparison
from anomalib_students.runs.jobs import Compute, Job, OnProgress
from anomalib_students.runs.storage import Storage
from reproduction.baselines.methods import Method

from .cells import HEADINGS, OURS, Cell, table_of
from .settings import MVTecSettings

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule
    from anomalib.models.components import AnomalibModule

__all__ = ["find_categories", "mvtec_jobs", "mvtec_tables"]

METRIC = "pixel_AUPRO"
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
SSIM = "ssim_autoencoder"
SSIM_BATCH = 16
DICTIONARY = "cnn_feature_dictionary"
DICTIONARY_PATCH = 65
"""Patch size of the CNN feature dictionary (Appendix C)."""
PAPER_SCALES = (17, 33, 65)


def find_categories(root: Path) -> list[str]:
    """Find the paper's categories in a folder, in its order; raise a FileNotFoundError if there are none."""
    found = [category for category in TABLE_1.index if (root / category).is_dir()]
    if not found:
        msg = f"There are no categories of MVTec AD in {root.resolve()}: name their folder with --root."
        raise FileNotFoundError(msg)
    return found


def mvtec_jobs(
    settings: MVTecSettings,
    categories: Sequence[str],
    methods: Sequence[str],
    patch_sizes: Sequence[int],
    baseline_patch_size: int,
    report: bool = False,
) -> dict[Cell, Job]:
    """List the jobs of the cells of Tables 1 and 3, in an order in which they can run.

    Our method is trained for each patch size; several are then merged too. The methods that are fitted to descriptors
    use ``baseline_patch_size``. ``report`` writes a report of each model of ours.
    """
    jobs = {}
    for category in categories:
        for method in methods:
            if method == OURS:
                cells = [Cell(category, OURS, f"p{size}") for size in sorted(set(patch_sizes))]
            elif method == SSIM:
                cells = [Cell(category, SSIM, "image")]
            else:
                size = DICTIONARY_PATCH if method == DICTIONARY else baseline_patch_size
                cells = [Cell(category, method, f"p{size}")]
            for cell in cells:
                work = partial(_train, settings, cell, report=report and method == OURS)
                jobs[cell] = Job(cell.name, cell.label, work)
            if len(cells) > 1:
                merged = Cell(category, OURS, _multi_scale(patch_sizes))
                work = partial(_merge, settings, merged, cells, report=report)
                jobs[merged] = Job(merged.name, merged.label, work, needs=tuple(cell.name for cell in cells))
    return jobs


def mvtec_tables(results: dict[Cell, dict[str, Any]], baseline_patch_size: int) -> list[Comparison]:
    """Compare the results of cells with the paper's Tables 1 and 3; those without results are left out.

    The paper's figures of the baselines are for p = 65, whatever ``baseline_patch_size`` is.
    """
    variants = {SSIM: "image", DICTIONARY: f"p{DICTIONARY_PATCH}"}
    methods = {(name, variants.get(name, f"p{baseline_patch_size}")): heading for name, heading in HEADINGS.items()}
    paper_methods = TABLE_1.assign(ours=TABLE_3.get(str(baseline_patch_size)))
    merged = {cell.variant for cell in results if cell.variant.startswith(MULTI_SCALE)}
    scales = {f"p{size}": f"p = {size}" for size in PAPER_SCALES} | {
        variant: MULTI_SCALE if variant == _multi_scale(PAPER_SCALES) else f"p = {variant.partition('-p')[2]}"
        for variant in sorted(merged)
    }
    title = "AUPRO up to a false positive rate of 0.3 on MVTec AD"
    tables = [
        Comparison.of(
            "Table 1",
            f"{title}, methods at p = {baseline_patch_size}",
            table_of(results, METRIC, methods),
            paper_methods.rename(columns=HEADINGS),
        ),
        Comparison.of(
            "Table 3",
            f"{title}, scales of our method",
            table_of(results, METRIC, {(OURS, variant): heading for variant, heading in scales.items()}),
            TABLE_3.rename(columns=lambda name: f"p = {name}" if name.isdigit() else name),
        ),
    ]
    return [table for table in tables if len(table.ours.columns)]


def _multi_scale(patch_sizes: Sequence[int]) -> str:
    """Name the variant of several scales, such as ``multi-scale-p17+33+65``."""
    return f"{MULTI_SCALE}-p{'+'.join(str(size) for size in sorted(set(patch_sizes)))}"


def _train(
    settings: MVTecSettings, cell: Cell, storage: Storage, compute: Compute, on_progress: OnProgress, report: bool
) -> dict[str, Any]:
    """Train and test the model of a cell."""
    from lightning.pytorch import seed_everything

    from anomalib_students.runs.finish import report_of
    from anomalib_students.runs.training import train_and_test

    seed_everything(settings.seed, workers=True, verbose=False)
    folder = storage.folder / cell.name
    model, datamodule = create_model(settings, cell), _create_datamodule(settings, cell, compute)
    outcome = train_and_test(model, datamodule, folder, settings.epochs, settings.precision, compute, on_progress)
    if report:
        report_of(model, datamodule, folder, compute.accelerator, settings.precision)
    return {**asdict(cell), **outcome, "settings": settings.as_dict()}


def _merge(
    settings: MVTecSettings,
    cell: Cell,
    scales: Sequence[Cell],
    storage: Storage,
    compute: Compute,
    on_progress: OnProgress,
    report: bool,
) -> dict[str, Any]:
    """Merge the trained models of the scales, and test them together (eq. 12)."""
    del on_progress
    from anomalib_students.runs.finish import merge_checkpoints, report_of
    from anomalib_students.runs.training import MODEL, test_model

    folder = storage.folder / cell.name
    model = merge_checkpoints(storage.folder / scale.name / MODEL for scale in scales)
    datamodule = _create_datamodule(settings, cell, compute)
    outcome = test_model(model, datamodule, folder, settings.precision, compute)
    if report:
        report_of(model, datamodule, folder, compute.accelerator, settings.precision)
    return {**asdict(cell), **outcome, "settings": settings.as_dict()}


def create_model(settings: MVTecSettings, cell: Cell) -> AnomalibModule:
    """Make the untrained model of a cell."""
    from anomalib_students import UninformedStudents
    from anomalib_students.model.lightning_model import PAPER
    from reproduction.baselines.cnn_feature_dictionary.lightning_model import CNNFeatureDictionary
    from reproduction.baselines.lightning_model import DescriptorBaseline
    from reproduction.baselines.ssim_autoencoder.lightning_model import SSIMAutoencoder

    size = (settings.image_size, settings.image_size)
    if cell.method == SSIM:
        # As in the paper of MVTec AD: textures in patches of images of twice the size, objects in one piece.
        is_texture = cell.row in TEXTURES
        return SSIMAutoencoder(
            patch_size=128 if is_texture or settings.image_size < 256 else 256,
            pre_processor=SSIMAutoencoder.configure_pre_processor((2 * size[0], 2 * size[1]) if is_texture else size),
        )
    common: dict[str, Any] = {
        "pre_processor": UninformedStudents.configure_pre_processor(size),
        "output_stride": settings.output_stride,
    }
    samples: dict[str, Any] = {} if settings.baseline_samples is None else {"n_samples": settings.baseline_samples}
    if cell.method == DICTIONARY:
        # The paper has every fourth pixel too.
        common["output_stride"] = max(4, settings.output_stride)
        return CNNFeatureDictionary(
            patch_size=DICTIONARY_PATCH,
            source_checkpoint=None if settings.source_checkpoint is None else str(settings.source_checkpoint),
            source_layer=settings.source_layer,
            **samples,
            **common,
        )
    patch_size = int(cell.variant.removeprefix("p"))
    if cell.method == OURS:
        return UninformedStudents(
            **{
                **PAPER,
                "architecture": settings.architecture,
                "patch_sizes": (patch_size,),
                "n_students": settings.n_students,
                "training_mode": settings.training_mode,
                "teacher": settings.teacher,
                "lr": settings.lr,
                "lr_schedule": settings.lr_schedule,
            },
            **common,
        )
    return DescriptorBaseline(
        method=cast("Method", cell.method),
        patch_size=patch_size,
        architecture=settings.architecture,
        teacher=settings.teacher,
        **samples,
        **common,
    )


def _create_datamodule(settings: MVTecSettings, cell: Cell, compute: Compute) -> AnomalibDataModule:
    from anomalib_students.data import MVTec

    return MVTec(
        root=settings.root,
        category=cell.row,
        train_batch_size=SSIM_BATCH if cell.method == SSIM else 1,
        num_workers=compute.loaders,
        val_split_mode="none",
        seed=settings.seed,
        train_limit=settings.train_limit,
        test_limit=settings.test_limit,
    )
