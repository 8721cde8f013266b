"""Anomaly-free training images held out for the statistics of eq. 11."""

import logging

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from pandas import DataFrame

__all__ = ["NormalizationSplit", "split_indices"]

logger = logging.getLogger(__name__)

SEED = 0
"""Seed of the split, so that a resumed run holds out the same images."""
FEWEST_HELD_OUT = 10
"""Least images held out, up to a quarter of all: fewer hardly show the spread of the scores."""


def split_indices(n_images: int, fraction: float) -> tuple[list[int], list[int]]:
    """Split images at random, the same at every call, and return sorted indices to train on and to hold out.

    At least ten images are held out, or a quarter of fewer than forty, or one of fewer than four. A single image is
    used for both.
    """
    if n_images == 1:
        return [0], [0]
    fewest = max(1, min(FEWEST_HELD_OUT, n_images // 4))
    n_held_out = min(max(fewest, round(n_images * fraction)), n_images - 1)
    order = torch.randperm(n_images, generator=torch.Generator().manual_seed(SEED)).tolist()
    return sorted(order[n_held_out:]), sorted(order[:n_held_out])


class NormalizationSplit(Callback):
    """Hold out part of the training images while a model is fitted.

    The images are taken out of the training set only during the fit, so that the data module can be used again. They
    are never taken from the validation or test images, which may be anomalous.

    Args:
        fraction: Part of the training images to hold out, in ``(0, 1)``, see :func:`split_indices`.

    Attributes:
        training: Images that the students learn from, during a fit.
        held_out: Images that they never see, during a fit or a validation; augmented as validation images are.

    Raises:
        ValueError: If ``fraction`` is out of range.
    """

    def __init__(self, fraction: float) -> None:
        if not 0 < fraction < 1:
            msg = f"normalization_split must lie between 0 and 1, got {fraction}."
            raise ValueError(msg)
        self.fraction = fraction
        self.training: AnomalibDataset | None = None
        self.held_out: AnomalibDataset | None = None
        self._all_samples: DataFrame | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the images out before the trainer builds its data loader; for a validation, find the same images again.

        Raises:
            ValueError: If the training data are not an anomalib data set, or have no images.
        """
        datamodule = getattr(trainer, "datamodule", None)
        if stage == TrainerFn.VALIDATING and isinstance(datamodule, AnomalibDataModule):
            indices = split_indices(len(datamodule.train_data), self.fraction)[1]
            self.held_out = _held_out(datamodule.train_data, indices, datamodule)
        if stage != TrainerFn.FITTING:
            return
        dataset = _training_dataset(trainer)
        if len(dataset) == 0:
            msg = "There are no anomaly-free images to train on: the training set is empty."
            raise ValueError(msg)
        training, held_out = split_indices(len(dataset), self.fraction)
        if training == held_out:
            logger.warning("There is a single training image: the scores are normalised on the image trained on.")
        self.training, self.held_out = dataset, _held_out(dataset, held_out, datamodule)
        self._all_samples = dataset.samples
        # In place, since the data loader may exist already, and reads the samples only when it is iterated.
        dataset.subsample(training, inplace=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the images back after the fit."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the images back if the fit is interrupted."""
        self._restore()

    def _restore(self) -> None:
        if self.training is not None:
            self.training.samples = self._all_samples
        self.training = self.held_out = self._all_samples = None


def _held_out(dataset: AnomalibDataset, indices: list[int], datamodule: object) -> AnomalibDataset:
    """Take images out of a data set, augmented as validation images are."""
    images = dataset.subsample(indices)
    if isinstance(validation := getattr(datamodule, "val_data", None), AnomalibDataset):
        images.augmentations = validation.augmentations
    return images


def _training_dataset(trainer: Trainer) -> AnomalibDataset:
    # Before the data loader is built, its source is private: ``trainer.datamodule`` may be that of an earlier fit.
    private = getattr(trainer.fit_loop, "_data_source", None)
    source = getattr(trainer, "datamodule", None) if private is None else private.instance
    dataset = source.train_data if isinstance(source, AnomalibDataModule) else getattr(source, "dataset", None)
    if not isinstance(dataset, AnomalibDataset):
        msg = (
            "UninformedStudents holds out training images to normalise its scores, and can do so only for an anomalib "
            f"data module or a data loader over an AnomalibDataset, not for {type(source).__name__}."
        )
        raise ValueError(msg)
    return dataset
