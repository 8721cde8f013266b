"""What the workers of a training do: make data, model and engine from the settings, fit, and report to Ray."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from ray import train
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback

from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.teacher.pretrain import pretrain

CATEGORY = "{category}"  # Placeholder for the name of the category in the arguments of a data module.
CHECKPOINT = RayTrainReportCallback.CHECKPOINT_NAME  # File of Lightning's in the folder of a checkpoint of Ray's.
SECONDS_BETWEEN_REPORTS = 60


class RegularReport(RayTrainReportCallback):
    """Report a checkpoint after an epoch if the last one, which costs time, is a minute old, and after the training."""

    _next = 0.0
    _step = -1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report if it is time, in all processes alike: their clocks differ."""
        if trainer.strategy.broadcast(time.monotonic() >= self._next):
            super().on_train_epoch_end(trainer, pl_module)
            self._step = trainer.global_step
            self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last epoch, unless that has been done."""
        if self._step != trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)


def fit(config: dict[str, Any]) -> None:
    """Fit the ensemble of a category and patch size, from the last checkpoint of the run if there is one."""
    settings = config["settings"]
    model = create_model(settings, config["patch_size"], **config["model"])
    datamodule = create_datamodule(settings, config["category"])
    last = train.get_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(last.to_directory(folder), CHECKPOINT) if last else None
        create_worker_engine(settings, folder, RegularReport()).fit(model, datamodule=datamodule, ckpt_path=path)


def pretrain_together(config: dict[str, Any]) -> None:
    """Pretrain a teacher with the arguments ``config["pretraining"]``, from its last checkpoint if there is one."""
    pretrain(**config["pretraining"], resume=True, trainer_arguments=_worker_arguments(config["settings"]))


def create_worker_engine(settings: Namespace, folder: str, callback: Callback, **trainer: Any) -> Engine:
    """Make the engine of a worker; ``trainer`` are arguments of the trainer that replace those of the settings."""
    arguments = {**_worker_arguments(settings), **settings.trainer, **trainer}
    return Engine(callbacks=[callback], default_root_dir=folder, enable_model_summary=False, **arguments)


def _worker_arguments(settings: Namespace) -> dict[str, Any]:
    return {
        "accelerator": settings.accelerator,
        "devices": "auto" if settings.gpus_per_worker else 1,
        "strategy": RayDDPStrategy(),
        "plugins": [RayLightningEnvironment()],
        "enable_progress_bar": False,
    }


def create_datamodule(settings: Namespace, category: str | None, **replaced: Any) -> AnomalibDataModule:
    """Make the data module of a category, None if the data have only one; ``replaced`` are other arguments of it."""
    text = json.dumps(settings.data)
    data = json.loads(text.replace(CATEGORY, json.dumps(category)[1:-1]) if category else text)
    arguments = {**(data.get("init_args") or {}), **replaced}
    if category and CATEGORY not in text:
        arguments["category"] = category
    # At most one process for each other core of the worker, instead of anomalib's eight.
    cores = max(0, int(settings.cpus_per_worker) - 1)
    arguments["num_workers"] = min(cores, arguments.get("num_workers", cores))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data", required=True)
    parsed = parser.parse_object({"data": {**data, "init_args": arguments}})
    return cast("AnomalibDataModule", parser.instantiate_classes(parsed).data)


def create_model(settings: Namespace, patch_size: int, **replaced: Any) -> UninformedStudents:
    """Make the untrained model of one patch size; ``replaced`` are arguments other than those of the settings."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(UninformedStudents, "model")
    parsed = parser.parse_object({"model": {**settings.model, **replaced, "patch_sizes": [patch_size]}})
    seed_everything(settings.seed, workers=True, verbose=False)
    return cast("UninformedStudents", parser.instantiate_classes(parsed).model)
