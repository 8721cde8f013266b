"""Sweep the weights of the teacher's loss (eq. 6): trials of Tune that pretrain a teacher and train students."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from anomalib_students.runs.storage import begin

from .sweep_settings import PAPER_WEIGHTS, Sweep

if TYPE_CHECKING:
    from ray.tune import ResultGrid
    from ray.tune.search import SearchAlgorithm, Searcher

__all__ = ["run_sweep"]


def run_sweep(sweep: Sweep, resume: bool = False) -> ResultGrid:
    """Run the trials, as many at once as the cluster has room for, and stop weak ones early.

    Raises:
        FileExistsError: If there is a sweep of that name, and ``resume`` is false.
        ValueError: If the sweep to be resumed had other settings, or the cluster lacks the resources of a trial.
    """
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
    from ray.tune.schedulers import ASHAScheduler

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
    experiment.workers.check_room()
    begin(experiment.storage, settings, resume)
    folder = experiment.storage.location
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
            max_concurrent_trials=experiment.workers.room(),
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
    """Begin with the paper's settings; continue with Optuna's TPE if it is installed, else at random."""
    others = {name: values[0] for name, values in sweep.choices.items()}
    points = [{**others, **weights} for weights in PAPER_WEIGHTS]
    if find_spec("optuna") is None:
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(points_to_evaluate=points, random_state=sweep.experiment.seed)
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(metric=sweep.metric, mode="max", points_to_evaluate=points, seed=sweep.experiment.seed)


def _run_trial(sweep: Sweep, config: dict[str, Any]) -> None:
    from .sweep_trial import run_trial

    run_trial(sweep, config)
