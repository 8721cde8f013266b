"""Train an ensemble in one of the processes that Ray Train has started for it."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ray import train
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer

from anomalib_students.engine.checkpoint_io import CheckpointIO
from anomalib_students.engine.engine_defaults import has_open_length
from anomalib_students.engine.termination import HowToResume

from .experiment import Experiment

__all__ = ["train_ensemble"]


def train_ensemble(experiment: Experiment, category: str | None, patch_size: int) -> None:
    """Train an ensemble, from its last checkpoint if there is one, and report a checkpoint after each epoch.

    Args:
        experiment: Settings of the grid.
        category: Name of the category.
        patch_size: Side p of the receptive field in pixels.
    """
    model = experiment.create_model(patch_size)
    model.chooses_length = has_open_length(experiment.trainer)
    model.chooses_precision = "precision" not in experiment.trainer
    model.validates_once = experiment.trainer.keys().isdisjoint({"check_val_every_n_epoch", "val_check_interval"})
    datamodule = experiment.create_datamodule(category)
    checkpoint_io = CheckpointIO(extra_safe_globals=list(model.checkpoint_safe_globals()))
    trainer = prepare_trainer(
        Trainer(
            accelerator="gpu" if experiment.workers.gpus else "cpu",
            devices="auto" if experiment.workers.gpus else 1,
            strategy=RayDDPStrategy(),
            plugins=[RayLightningEnvironment(), checkpoint_io],
            # Ray keeps the checkpoints.
            callbacks=[
                RayTrainReportCallback(),
                ModelCheckpoint(save_top_k=0),
                HowToResume("Resume the job with --resume true."),
            ],
            **experiment.trainer_arguments(model),
        )
    )
    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        trainer.fit(model, datamodule=datamodule)
        return
    with checkpoint.as_directory() as folder:
        path = Path(folder) / RayTrainReportCallback.CHECKPOINT_NAME
        trainer.fit(model, datamodule=datamodule, ckpt_path=path)
