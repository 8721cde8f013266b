"""One trial of a sweep: pretrain a teacher, train students with it, and report their metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib.metrics import Evaluator
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ray import tune

from anomalib_students.model.metrics import create_metrics
from anomalib_students.runs.experiment import Experiment
from anomalib_students.runs.training import quiet_trainer
from anomalib_students.teacher.pretrain import pretrain
from anomalib_students.user_errors import LIGHTNING, only_warnings_of

from .sweep_settings import LOSS_WEIGHTS, Sweep

__all__ = ["run_trial", "with_synthetic_validation"]

HELD_OUT = 0.3
"""Part of the good training images that is held out for the validation."""


class _Report(Callback):
    """Report the mean over the categories so far after each validation."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.finished: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        values = [*self.finished, float(trainer.callback_metrics[self.metric])]
        tune.report({self.metric: sum(values) / len(values)})


def run_trial(sweep: Sweep, config: dict[str, Any]) -> None:
    """Run a trial with values of the arguments that are swept."""
    if not any(config[name] for name in LOSS_WEIGHTS):
        # Without a loss there is no teacher.
        tune.report({sweep.metric: 0.0})
        return
    experiment, report = sweep.experiment, _Report(sweep.metric)
    accelerator = "gpu" if experiment.workers.gpus else "cpu"
    teacher = _pretrain(sweep, config, accelerator)
    pretraining = {**sweep.pretraining, **config}
    network = {name: pretraining[name] for name in ("architecture", "descriptor_dim")}
    # Nobody looks at the heat maps of a trial.
    others = {**network, "teacher": str(teacher), "visualizer": False}
    model_arguments = {**experiment.model, **others}
    students = replace(experiment, data=with_synthetic_validation(experiment), model=model_arguments)
    tests: list[float] = []
    with only_warnings_of(LIGHTNING):
        for category in sweep.categories:
            model = students.create_model(sweep.pretraining["patch_size"])
            model.evaluator = Evaluator(val_metrics=create_metrics(), test_metrics=create_metrics())
            arguments = {**experiment.trainer, "max_epochs": sweep.epochs, "check_val_every_n_epoch": 1}
            trainer = quiet_trainer(
                model,
                accelerator=accelerator,
                devices=1,
                callbacks=[report, ModelCheckpoint(save_top_k=0)],
                **arguments,
            )
            datamodule = students.create_datamodule(category)
            trainer.fit(model, datamodule=datamodule)
            report.finished.append(float(trainer.callback_metrics[sweep.metric]))
            (metrics,) = trainer.test(model, datamodule=datamodule, verbose=False)
            tests.append(metrics[sweep.metric])
    means = [sum(values) / len(values) for values in (report.finished, tests)]
    tune.report({sweep.metric: means[0], f"test_{sweep.metric}": means[1]})


def with_synthetic_validation(experiment: Experiment) -> dict[str, Any]:
    """Validate on good images held out of the training, half of them with synthetic anomalies.

    Each trial holds out the same images. The test images, which many data modules validate on, must not affect the
    choice of the weights.
    """
    arguments = {
        **(experiment.data.get("init_args") or {}),
        "val_split_mode": "synthetic",
        "val_split_ratio": HELD_OUT,
        "seed": experiment.seed,
    }
    return {**experiment.data, "init_args": arguments}


def _pretrain(sweep: Sweep, config: dict[str, Any], accelerator: str) -> Path:
    """Pretrain the teacher, unless an earlier attempt at the trial has."""
    experiment = sweep.experiment
    name = "-".join(f"{name}={value}" for name, value in sorted(config.items()))
    folder = experiment.storage.folder / "teachers" / name
    output = folder / "teacher.safetensors"
    if not output.is_file():
        arguments = {**sweep.pretraining, **config, "output": output, "results": folder, "accelerator": accelerator}
        pretrain(**arguments, resume=True, trainer_arguments={"enable_progress_bar": False})
    return output
