"""Train ensembles for all categories and patch sizes, as many at once as a cluster has room for."""

from collections.abc import Sequence
from functools import partial
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import FailureConfig, ResultGrid, RunConfig, TuneConfig, Tuner

from .ensemble import TRAINED, run_ensemble, run_name
from .experiment import Experiment, label
from .report import report_files
from .storage import RESULTS, check_settings, exists, read_json, write_bytes
from .workers import TRIAL_RESOURCES, cause

__all__ = ["run_grid"]

POLL_SECONDS = 2.0
UNKNOWN = ""
"""What stands for the category of a trial that ended before it could tell its own."""


def run_grid(
    experiment: Experiment, categories: Sequence[str | None], patch_sizes: Sequence[int], resume: bool = False
) -> dict[str, str]:
    """Train an ensemble for each category and patch size; merge and measure a category's as soon as all are there.

    Args:
        experiment: Settings of the grid.
        categories: Names of the categories; a single None for data that have but one.
        patch_sizes: Sides p of the receptive fields in pixels.
        resume: Go on with the grid of the same name.

    Returns:
        What went wrong, by category; empty if nothing did.

    Raises:
        FileExistsError: If there is a grid of that name, and it is not to be resumed.
        ValueError: If the settings are not those of the grid to be resumed, or the cluster lacks what a training needs.
    """
    settings = {**experiment.as_dict(), "categories": list(categories), "patch_sizes": list(patch_sizes)}
    check_settings(*experiment.storage(), settings, resume)
    folder = experiment.folder
    trainable = tune.with_resources(partial(run_ensemble, experiment, uuid4().hex), TRIAL_RESOURCES)
    if resume and Tuner.can_restore(f"{folder}/tune"):
        tuner = Tuner.restore(f"{folder}/tune", trainable, restart_errored=True)
    else:
        tuner = Tuner(
            trainable,
            param_space={
                "category": tune.grid_search(list(categories)),
                "patch_size": tune.grid_search(list(patch_sizes)),
            },
            tune_config=TuneConfig(max_concurrent_trials=experiment.workers.concurrent_groups()),
            run_config=RunConfig(
                name="tune",
                storage_path=folder,
                # A trial may be on a node that is lost.
                failure_config=FailureConfig(max_failures=experiment.workers.max_failures),
            ),
        )
    finisher = _Finisher(experiment, categories, patch_sizes)
    finisher.start()
    try:
        errors = _errors(tuner.fit())
    finally:
        finisher.stop()
    return finisher.finish(errors)


def _finish(experiment: Experiment, category: str | None, checkpoints: dict[int, str]) -> dict[str, Any]:
    from .finish import finish_category

    return finish_category(experiment, category, checkpoints)


class _Finisher(Thread):
    """Finish categories and write the report while other categories are trained."""

    def __init__(self, experiment: Experiment, categories: Sequence[str | None], patch_sizes: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._experiment = experiment
        self._file_system, self._root = experiment.storage()
        self._waiting = list(categories)
        self._patch_sizes = patch_sizes
        workers = experiment.workers
        task = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=workers.max_failures)
        self._task = task(_finish)
        self._running: dict[ray.ObjectRef, str | None] = {}
        self._results: list[dict[str, Any]] = []
        self._failures: dict[str, str] = {}
        self._stopped = Event()

    def run(self) -> None:
        """Poll until stopped."""
        while not self._stopped.wait(POLL_SECONDS):
            self._poll(timeout=0)

    def stop(self) -> None:
        """Stop polling."""
        self._stopped.set()
        self.join()

    def finish(self, errors: dict[str, str]) -> dict[str, str]:
        """Finish what is left, and write the report for the last time."""
        reason = errors.pop(UNKNOWN, "not all of its ensembles have been trained")
        self._failures |= errors
        self._poll(timeout=0)
        while self._running:
            self._poll(timeout=POLL_SECONDS)
        for category in self._waiting:
            self._failures.setdefault(label(category), reason)
        self._write_report()
        return self._failures

    def _poll(self, timeout: float) -> None:
        for category in list(self._waiting):
            checkpoints = self._checkpoints(category)
            if checkpoints:
                self._waiting.remove(category)
                path = f"{self._root}/{label(category)}/{RESULTS}"
                if exists(self._file_system, path):
                    self._results.append(read_json(self._file_system, path))
                else:
                    self._running[self._task.remote(self._experiment, category, checkpoints)] = category
        done, _ = ray.wait(list(self._running), timeout=timeout) if self._running else ([], [])
        for reference in done:
            category = self._running.pop(reference)
            try:
                self._results.append(ray.get(reference))
            except RayError as error:
                self._failures[label(category)] = cause(error)
            self._write_report()

    def _checkpoints(self, category: str | None) -> dict[int, str] | None:
        """Paths of the last checkpoints of a category, if all its ensembles are trained."""
        paths = {size: f"{self._root}/{run_name(category, size)}/{TRAINED}" for size in self._patch_sizes}
        if not all(exists(self._file_system, path) for path in paths.values()):
            return None
        return {size: read_json(self._file_system, path)["checkpoint"] for size, path in paths.items()}

    def _write_report(self) -> None:
        for name, content in report_files(self._results, self._failures).items():
            write_bytes(self._file_system, f"{self._root}/{name}", content)


def _errors(results: ResultGrid) -> dict[str, str]:
    errors: dict[str, str] = {}
    for result in (results[index] for index in range(len(results))):
        if result.error is not None:
            config = result.config
            if not config:
                errors[UNKNOWN] = cause(result.error)
                continue
            reason = f"p = {config['patch_size']}: {cause(result.error)}"
            category = label(config["category"])
            errors[category] = f"{errors[category]}; {reason}" if category in errors else reason
    return errors
