"""Sweep the weights of the teacher's loss (eq. 6) with Ray Tune, each trial a run of Ray Train."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from anomalib.metrics import Evaluator
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from ray import train, tune
from ray.tune import ResultGrid, RunConfig, TuneConfig, Tuner
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from anomalib_students.model.metrics import create_metrics
from anomalib_students.teacher.pretrain import LOSS_WEIGHTS, PAPER_WEIGHTS

from .fit import create_datamodule, create_model, create_worker_engine, pretrain_together
from .workers import reason_of, room, run_on_workers

WEIGHTS = tuple(LOSS_WEIGHTS.values())  # Arguments of the pretraining that are the weights of eq. 6.
HELD_OUT = 0.3  # Fraction of the good training images that is held out for the validation.


def run_sweep(settings: Namespace, pretraining: Mapping[str, Any], choices: Mapping[str, Sequence]) -> ResultGrid:
    """Run or resume trials that share ``pretraining`` and are given ``choices`` of others, the paper's four first."""
    folder = str(settings.storage.folder)
    names = ("data", "model", "trainer", "seed", "workers", "categories", "epochs", "metric", "trials")
    settings.storage.begin({**{name: settings[name] for name in names}, "pretraining": pretraining, "choices": choices})
    # The workers have the cores; Tune needs some resource of what waits for them.
    trial = tune.with_resources(partial(_run_trial, settings, pretraining), {"memory": 2**28})
    if Tuner.can_restore(f"{folder}/tune"):
        return Tuner.restore(f"{folder}/tune", trial, restart_errored=True).fit()
    reports = settings.epochs * len(settings.categories or [None])
    others = {name: values[0] for name, values in choices.items()}
    points = [{**others, **dict(zip(WEIGHTS, map(float, weights), strict=True))} for weights in PAPER_WEIGHTS]
    tuner = Tuner(
        trial,
        param_space={name: tune.choice(list(values)) for name, values in choices.items()},
        tune_config=TuneConfig(
            metric=settings.metric,
            mode="max",
            num_samples=settings.trials,
            search_alg=BasicVariantGenerator(points, max_concurrent=room(settings), random_state=settings.seed),
            # The last report is that of the test.
            scheduler=ASHAScheduler(max_t=reports + 1, grace_period=max(1, reports // 3), reduction_factor=3),
        ),
        run_config=RunConfig(name="tune", storage_path=folder),
    )
    return tuner.fit()


def _run_trial(settings: Namespace, pretraining: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Run a trial on a group of workers, whose reports go to Tune."""
    if not any(config[name] for name in WEIGHTS):
        # Without a loss there is no teacher.
        tune.report({settings.metric: 0.0})
        return
    folder = f"{settings.storage.location}/teachers/{'-'.join(f'{name}={config[name]}' for name in sorted(config))}"
    arguments = {"settings": settings, "pretraining": {**pretraining, **config}, "folder": folder}
    name = tune.get_context().get_trial_id()
    run_on_workers(_judge, arguments, settings, f"{settings.storage.location}/trials", name, [TuneReportCallback()])


def _judge(config: dict[str, Any]) -> None:
    """Pretrain a teacher, and judge it by students, on held-out images of which half have synthetic anomalies."""
    settings, pretraining, folder = config["settings"], config["pretraining"], Path(config["folder"])
    teacher = folder / "teacher.safetensors"
    if not teacher.is_file():
        pretrain_together({**config, "pretraining": {**pretraining, "output": teacher, "results": folder}})
    network = {name: pretraining[name] for name in ("architecture", "descriptor_dim")}
    split = {"val_split_mode": "synthetic", "val_split_ratio": HELD_OUT, "seed": settings.seed}
    validated, tested = list[float](), list[float]()

    def report(trainer: Trainer, _: LightningModule) -> None:
        values = [*validated, float(trainer.callback_metrics[settings.metric])]
        train.report({settings.metric: sum(values) / len(values)})

    for category in settings.categories or [None]:
        model = create_model(settings, pretraining["patch_size"], teacher=str(teacher), visualizer=False, **network)
        model.evaluator = Evaluator(val_metrics=create_metrics(), test_metrics=create_metrics())
        datamodule = create_datamodule(settings, category, **split)
        length = {"max_epochs": settings.epochs, "check_val_every_n_epoch": 1, "num_sanity_val_steps": 0}
        with tempfile.TemporaryDirectory() as temporary:
            engine = create_worker_engine(settings, temporary, LambdaCallback(on_validation_end=report), **length)
            engine.fit(model, datamodule=datamodule)
            validated.append(float(engine.trainer.callback_metrics[settings.metric]))
            (metrics,) = engine.test(model, datamodule=datamodule, verbose=False)
        tested.append(metrics[settings.metric])
    means = [sum(values) / len(values) for values in (validated, tested)]
    train.report({settings.metric: means[0], f"test_{settings.metric}": means[1]})


def sweep_files(
    settings: Namespace, pretraining: Mapping[str, Any], choices: Mapping[str, Sequence], trials: ResultGrid
) -> dict[str, bytes]:
    """Make tables with a row for each trial, the best first, and, if one is finished, its arguments, ``best.yaml``."""
    metrics, rows = [settings.metric, f"test_{settings.metric}"], []
    for trial in (trials[index] for index in range(len(trials))):
        values = [(trial.metrics or {}).get(name) for name in metrics]
        end = "stopped early" if values[1] is None else "finished"
        end = f"failed: {reason_of(trial.error)}" if trial.error else end
        rows.append({**(trial.config or {}), **dict(zip(metrics, values, strict=True)), "end": end})
    table = pd.DataFrame(rows, columns=[*choices, *metrics, "end"]).sort_values(settings.metric, ascending=False)
    files = {"sweep.csv": table.to_csv(index=False), "sweep.md": table.to_markdown(index=False, floatfmt=".4g") + "\n"}
    finished = table[table["end"] == "finished"]
    if len(finished):
        best = {**pretraining, **json.loads(finished.iloc[0][list(choices)].to_json())}
        files["best.yaml"] = yaml.safe_dump(json.loads(json.dumps(best, default=str)), sort_keys=False)
    return {name: content.encode() for name, content in files.items()}
