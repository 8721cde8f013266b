"""Sweep the weights of the teacher's loss (eq. 6): trials of Tune that pretrain a teacher, and students with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from ray import tune
from ray.tune import FailureConfig, ResultGrid, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from .experiment import Experiment
from .storage import check_settings

__all__ = ["LOSS_WEIGHTS", "PAPER_WEIGHTS", "Sweep", "run_sweep"]

LOSS_WEIGHTS = ("lambda_k", "lambda_m", "lambda_c")
"""Arguments of the pretraining that are the weights of eq. 6."""
PAPER_WEIGHTS = (
    {"lambda_k": 1.0, "lambda_m": 0.0, "lambda_c": 1.0},
    {"lambda_k": 1.0, "lambda_m": 1.0, "lambda_c": 1.0},
    {"lambda_k": 0.0, "lambda_m": 1.0, "lambda_c": 1.0},
    {"lambda_k": 1.0, "lambda_m": 0.0, "lambda_c": 0.0},
)
"""The four settings of the paper (Table 2), which are always among the trials."""


@dataclass(frozen=True)
class Sweep:
    """Settings of a sweep.

    Attributes:
        pretraining: Arguments of :func:`anomalib_students.teacher.task.pretrain` that all trials share.
        choices: Values of each argument of the pretraining that is swept.
        experiment: Data and students by which a teacher is judged. Its storage path is a folder that all nodes share.
        categories: Categories of the data; a single None for data that have but one.
        epochs: Epochs that students are trained for on each category.
        metric: Metric on the validation images that the sweep maximises.
        trials: Number of trials, those with the paper's settings among them.
    """

    pretraining: Mapping[str, Any]
    choices: Mapping[str, Sequence[Any]]
    experiment: Experiment
    categories: Sequence[str | None]
    epochs: int
    metric: str = "pixel_AUPRO"
    trials: int = 8


def run_sweep(sweep: Sweep, resume: bool = False) -> ResultGrid:
    """Run the trials, as many at once as the cluster has room for, and stop weak ones early.

    Args:
        sweep: Settings of the sweep.
        resume: Go on with the sweep of the same name.

    Returns:
        Results of all trials.

    Raises:
        FileExistsError: If there is a sweep of that name, and it is not to be resumed.
        ValueError: If its settings were others, or the cluster lacks what a trial needs.
    """
    experiment = sweep.experiment
    settings = {
        "pretraining": dict(sweep.pretraining),
        "choices": {name: list(values) for name, values in sweep.choices.items()},
        "experiment": experiment.as_dict(),
        "categories": list(sweep.categories),
        "epochs": sweep.epochs,
        "metric": sweep.metric,
        "trials": sweep.trials,
    }
    check_settings(*experiment.storage(), settings, resume)
    folder = experiment.folder
    trainable = tune.with_resources(partial(_run_trial, sweep), experiment.workers.resources)
    if resume and Tuner.can_restore(f"{folder}/tune"):
        return Tuner.restore(f"{folder}/tune", trainable, restart_errored=True).fit()
    reports = sweep.epochs * len(sweep.categories)
    tuner = Tuner(
        trainable,
        param_space={name: tune.choice(list(values)) for name, values in sweep.choices.items()},
        tune_config=TuneConfig(
            metric=sweep.metric,
            mode="max",
            num_samples=sweep.trials,
            max_concurrent_trials=experiment.workers.concurrent_groups(),
            # A process that has imported anomalib, which takes seconds, runs the next trial too.
            reuse_actors=True,
            search_alg=_search(sweep),
            # The last report is that of the test.
            scheduler=ASHAScheduler(max_t=reports + 1, grace_period=max(1, reports // 3), reduction_factor=3),
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=experiment.workers.max_failures),
        ),
    )
    return tuner.fit()


def _search(sweep: Sweep) -> Searcher | SearchAlgorithm:
    """Begin with the paper's settings; go on with Optuna's TPE where it is installed, else at random."""
    others = {name: values[0] for name, values in sweep.choices.items()}
    points = [{**others, **weights} for weights in PAPER_WEIGHTS]
    if find_spec("optuna") is None:
        return BasicVariantGenerator(points_to_evaluate=points, random_state=sweep.experiment.seed)
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(metric=sweep.metric, mode="max", points_to_evaluate=points, seed=sweep.experiment.seed)


def _run_trial(sweep: Sweep, config: dict[str, Any]) -> None:
    from .sweep_trial import run_trial

    run_trial(sweep, config)
