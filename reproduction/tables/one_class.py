"""Tables 2, 6 and 7: one-class classification of MNIST and CIFAR-10, and the weights of the teacher's loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from anomalib_students.paper.paper_tables import MEAN, PRINTED_MEANS, TABLE_6, TABLE_7
from anomalib_students.paper.report import Comparison
from anomalib_students.runs.jobs import Compute, Job, OnProgress
from anomalib_students.runs.storage import Storage
from anomalib_students.teacher.pretrain import PAPER_WEIGHTS
from reproduction.baselines.methods import Method

from .cells import HEADINGS, OURS, Cell, table_of
from .settings import LossWeights, OneClassData, OneClassSettings

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule
    from anomalib.models.components import AnomalibModule

__all__ = ["class_names", "one_class_jobs", "one_class_tables"]

METRIC = "image_AUROC"
BUNDLED = "bundled"
"""Variant of the cells with the bundled teacher."""
TABLES = {"mnist": ("Table 6", "MNIST", TABLE_6), "cifar10": ("Table 7", "CIFAR-10", TABLE_7)}
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "nearest_neighbour": {"dictionary_size": None},
    "autoencoder": {"lr": 1e-2, "batch_size": 64},
    "variational_autoencoder": {"lr": 1e-2, "batch_size": 64},
}
"""Settings that differ from MVTec AD (Appendix B)."""


def class_names(data: OneClassData, classes: Sequence[str | int] | None) -> list[str]:
    """Name the classes given by name or number, None for all; raise a ValueError if there is no such class."""
    _, title, table = TABLES[data]
    names = list(table.index)
    numbers = {str(number): name for number, name in enumerate(names)}
    chosen = names if classes is None else [numbers.get(str(name), str(name)) for name in classes]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        msg = f"{title} has no class {', '.join(unknown)}: its classes are {', '.join(names)}."
        raise ValueError(msg)
    return chosen


def one_class_jobs(
    settings: OneClassSettings,
    classes: Sequence[str],
    methods: Sequence[str],
    loss_weights: Sequence[LossWeights],
) -> tuple[list[Job], dict[Cell, Job]]:
    """List the jobs of Tables 2, 6 and 7: those of the teachers, and those of the cells, which need them.

    ``loss_weights`` are those of the teachers that are pretrained for our method.
    """
    teachers = {}
    for weights in loss_weights if OURS in methods else ():
        variant = variant_of(weights)
        work = partial(_pretrain, settings, weights)
        teachers[variant] = Job(f"teachers/{variant}", f"teacher {variant}", work)
    cells = {}
    for name in classes:
        for method in methods:
            for variant in (BUNDLED, *(teachers if method == OURS else ())):
                cell = Cell(name, method, variant)
                needs = (teachers[variant].name,) if variant in teachers else ()
                cells[cell] = Job(cell.name, cell.label, partial(_train, settings, cell), needs)
    return list(teachers.values()), cells


def one_class_tables(results: dict[Cell, dict[str, Any]], data: OneClassData) -> list[Comparison]:
    """Compare the results of cells with the paper's table of a data set, and their means with Table 2."""
    name, title, table = TABLES[data]
    paper = {heading: table.get(method) for method, heading in HEADINGS.items()}
    headings = {(method, BUNDLED): heading for method, heading in HEADINGS.items()}
    means = {heading: PRINTED_MEANS[name].get(method) for method, heading in HEADINGS.items()}
    variants = [BUNDLED, *(variant_of(weights) for weights in PAPER_WEIGHTS)]
    others = {cell.variant for cell in results if cell.method == OURS} - set(variants)
    for variant in (*variants, *sorted(others)):
        heading = f"{HEADINGS[OURS]}, {_teacher(variant)}"
        headings[OURS, variant] = heading
        # The bundled teacher was distilled, with a little weight on the compactness of descriptors.
        column = f"{OURS}-{variant_of(PAPER_WEIGHTS[0]) if variant == BUNDLED else variant}"
        paper[heading] = table.get(column)
        means[heading] = PRINTED_MEANS[name].get(column)
    paper_table = pd.DataFrame({key: value for key, value in paper.items() if value is not None})
    classes = Comparison.of(
        name,
        f"AUROC of images on {title}, by the normal class",
        table_of(results, METRIC, headings),
        paper_table,
        pd.Series(means, dtype=float),
    )
    if not len(classes.ours.columns):
        return []
    ours, means_of_paper = (
        frame.loc[[MEAN]].T.rename(columns={MEAN: title}) for frame in (classes.ours, classes.paper)
    )
    # The chart of the classes has the means.
    summary = Comparison("Table 2", f"mean AUROC of images on {title}", ours, means_of_paper, is_drawn=False)
    return [summary, classes]


def variant_of(weights: LossWeights) -> str:
    """Name a teacher by its weights lambda_k, lambda_m and lambda_c, such as ``k1-m0-c1``."""
    return "-".join(f"{loss}{weight:g}" for loss, weight in zip("kmc", weights, strict=True))


def _teacher(variant: str) -> str:
    """Name a teacher for users, by the losses of weight 1, as the paper's check marks do, or by all weights."""
    if variant == BUNDLED:
        return "bundled teacher"
    losses = [part for part in variant.split("-") if float(part[1:])]
    if all(part[1:] == "1" for part in losses):
        return " ".join(f"L_{part[0]}" for part in losses)
    return " ".join(f"{part[1:]} L_{part[0]}" for part in losses)


def _teacher_file(storage: Storage, variant: str) -> Path:
    return storage.folder / "teachers" / f"{variant}.safetensors"


def _pretrain(
    settings: OneClassSettings, weights: LossWeights, storage: Storage, compute: Compute, on_progress: OnProgress
) -> dict[str, Any]:
    """Pretrain a teacher, from its last checkpoint if there is one."""
    del on_progress
    from anomalib_students.networks.weights import read_metadata
    from anomalib_students.teacher.pretrain import pretrain

    output = _teacher_file(storage, variant_of(weights))
    lambda_k, lambda_m, lambda_c = weights
    start = time.monotonic()
    pretrain(
        images=settings.teacher_images,
        output=output,
        patch_size=settings.patch_size,
        architecture=settings.architecture,
        source_checkpoint=settings.source_checkpoint,
        source_layer=settings.source_layer,
        lambda_k=lambda_k,
        lambda_m=lambda_m,
        lambda_c=lambda_c,
        max_steps=settings.teacher_steps,
        lr=settings.teacher_lr,
        seed=settings.seed,
        precision=settings.precision,
        accelerator=compute.accelerator,
        results=storage.folder / "teachers",
        resume=True,
        trainer_arguments={"enable_progress_bar": False},
    )
    return {"teacher": read_metadata(output), "seconds": {"training": round(time.monotonic() - start, 1)}}


def _train(
    settings: OneClassSettings, cell: Cell, storage: Storage, compute: Compute, on_progress: OnProgress
) -> dict[str, Any]:
    """Train and test the model of a cell."""
    from lightning.pytorch import seed_everything

    from anomalib_students.runs.training import train_and_test

    seed_everything(settings.seed, workers=True, verbose=False)
    teacher = BUNDLED if cell.variant == BUNDLED else str(_teacher_file(storage, cell.variant))
    model, datamodule = create_model(settings, cell.method, teacher), _create_datamodule(settings, cell)
    folder = storage.folder / cell.name
    outcome = train_and_test(model, datamodule, folder, settings.epochs, settings.precision, compute, on_progress)
    return {**asdict(cell), **outcome, "settings": settings.as_dict()}


def create_model(settings: OneClassSettings, method: str, teacher: str) -> AnomalibModule:
    """Make the untrained model of a method; ``teacher`` is a path or ``"bundled"``."""
    from anomalib_students import UninformedStudents
    from anomalib_students.model.lightning_model import PAPER
    from reproduction.baselines.lightning_model import DescriptorBaseline

    if method == OURS:
        return UninformedStudents(
            **{
                **PAPER,
                "mode": "patch",
                "architecture": settings.architecture,
                "patch_sizes": (settings.patch_size,),
                "n_students": settings.n_students,
                "teacher": teacher,
                "lr": settings.lr,
                "lr_schedule": settings.lr_schedule,
            },
        )
    return DescriptorBaseline(
        mode="patch",
        method=cast("Method", method),
        patch_size=settings.patch_size,
        architecture=settings.architecture,
        teacher=teacher,
        settings=METHOD_SETTINGS.get(method),
    )


def _create_datamodule(settings: OneClassSettings, cell: Cell) -> AnomalibDataModule:
    from reproduction.one_class.torchvision_data import OneClassCIFAR10, OneClassMNIST

    datamodule = OneClassMNIST if settings.data == "mnist" else OneClassCIFAR10
    return datamodule(
        root=settings.root,
        normal_class=cell.row,
        cache_dir=settings.cache_dir,
        train_batch_size=settings.batch_size,
        train_limit=settings.train_limit,
        test_limit=settings.test_limit,
        val_split_mode="none",
        seed=settings.seed,
    )
