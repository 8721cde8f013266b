"""Train an ensemble for each category and patch size, and merge the scales of each category, as a graph of jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .ensemble import run_ensemble
from .experiment import Experiment, label
from .jobs import Compute, Job, OnProgress, read_result
from .ray_executor import OnRay
from .run import run_and_report
from .storage import Storage, begin

__all__ = ["grid_jobs", "run_grid"]

ReportFiles = Callable[[Sequence[Mapping[str, Any]], Mapping[str, str]], dict[str, bytes]]
"""Makes the report from the results of categories, and the reasons why others have failed."""


def run_grid(
    experiment: Experiment,
    categories: Sequence[str | None],
    patch_sizes: Sequence[int],
    report_files: ReportFiles,
    resume: bool = False,
) -> dict[str, str]:
    """Train an ensemble for each category and patch size; merge a category once all its scales are trained.

    Args:
        experiment: Settings of the grid.
        categories: Names of the categories; a single None for data that have only one.
        patch_sizes: Sides p of the receptive fields in pixels.
        report_files: Makes the report, which grows with each category.
        resume: Whether to resume the grid of the same name.

    Returns:
        Reasons of failures by category.

    Raises:
        FileExistsError: If there is a grid of that name, and ``resume`` is false.
        ValueError: If the grid to be resumed had other settings, or the cluster lacks the resources of a training.
    """
    storage = experiment.storage
    settings = {**experiment.as_dict(), "categories": list(categories), "patch_sizes": list(patch_sizes)}
    experiment.workers.check_room()
    begin(storage, settings, resume)

    def files(results: Mapping[str, dict[str, Any]], failures: Mapping[str, str]) -> dict[str, bytes]:
        finished = [results[label(category)] for category in categories if label(category) in results]
        return report_files(finished, _by_category(categories, patch_sizes, failures))

    failures = run_and_report(
        storage,
        grid_jobs(experiment, categories, patch_sizes),
        lambda _, on_progress: OnRay(storage, experiment.workers, on_progress),
        files,
    )
    return _by_category(categories, patch_sizes, failures)


def grid_jobs(experiment: Experiment, categories: Sequence[str | None], patch_sizes: Sequence[int]) -> list[Job]:
    """List the jobs: for each category a check of its data, its trainings and, under its own name, what finishes it."""
    jobs = []
    for category in categories:
        name = label(category)
        check = Job(f"{name}-data", _data(name), partial(_check_data, experiment, category))
        runs = {size: f"{name}-p{size}" for size in patch_sizes}
        trainings = [
            Job(
                run,
                _scale(name, size),
                partial(run_ensemble, experiment, category, size, run),
                needs=(check.name,),
                has_workers=True,
            )
            for size, run in runs.items()
        ]
        finish = Job(name, name, partial(_finish, experiment, category, runs), needs=tuple(runs.values()))
        jobs += [check, *trainings, finish]
    return jobs


def _check_data(
    experiment: Experiment, category: str | None, storage: Storage, compute: Compute, on_progress: OnProgress
) -> dict[str, Any]:
    """Check that the data can be read, before workers start."""
    del storage, compute, on_progress
    from anomalib_students.data.data_check import check_data

    datamodule = experiment.create_datamodule(category)
    datamodule.prepare_data()
    datamodule.setup()
    return {"files": check_data(datamodule)}


def _finish(
    experiment: Experiment,
    category: str | None,
    runs: Mapping[int, str],
    storage: Storage,
    compute: Compute,
    on_progress: OnProgress,
) -> dict[str, Any]:
    del on_progress
    from .finish import finish_category

    checkpoints = {size: read_result(storage, run)["checkpoint"] for size, run in runs.items()}
    return finish_category(experiment, category, checkpoints, storage, compute)


def _data(name: str) -> str:
    return f"{name}, data"


def _scale(name: str, patch_size: int) -> str:
    return f"{name}, p = {patch_size}"


def _by_category(
    categories: Sequence[str | None], patch_sizes: Sequence[int], failures: Mapping[str, str]
) -> dict[str, str]:
    """Give the first failure of each category that could not be finished."""
    reasons = {}
    for name in map(label, categories):
        scales = [
            f"p = {size}: {failures[_scale(name, size)]}" for size in patch_sizes if _scale(name, size) in failures
        ]
        reason = failures.get(_data(name)) or "; ".join(scales) or failures.get(name)
        if reason is not None:
            reasons[name] = reason
    return reasons
