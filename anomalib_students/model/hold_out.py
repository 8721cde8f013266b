"""Anomaly-free training images held out for the statistics of eq. 11."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

logger = logging.getLogger(__name__)

SEED = 0  # Seed of the split and of samples, so that a resumed run takes the same images.
FEWEST_HELD_OUT = 10  # Least images held out, up to a quarter of all: fewer hardly show the spread of the scores.
MOST = 300
"""Most images held out, and most that statistics are computed from: more hardly change either, but cost time."""
SEEN = 50  # Training images, or up to twice as many, that show where and in what students err.
FEWEST_LEARNT = 30  # Training images whose scores spread as those of others do; fewer are known by heart.
NEEDS_DATA_MODULE = (
    "Training images are held out of a data module of anomalib: give the fit a datamodule, not a loader."
)


def split_indices(n_images: int, fraction: float) -> tuple[list[int], list[int]]:
    """Split images at random, the same at every call, into sorted indices to train on and to hold out; one is both."""
    if n_images == 1:
        return [0], [0]
    fewest = max(1, min(FEWEST_HELD_OUT, n_images // 4))
    n_held_out = min(max(fewest, round(n_images * fraction)), n_images - 1, MOST)
    order = _shuffled(n_images)
    return sorted(order[n_held_out:]), sorted(order[:n_held_out])


def sample_indices(n_images: int) -> list[int]:
    """Draw at most 300 images at random, the same at every call, and return their sorted indices."""
    return sorted(_shuffled(n_images)[:MOST])


def sample_learnt(training: list[int], number: int) -> list[int]:
    """Take at least a number of the images trained on, and at most twice as many, evenly; none of fewer than 30."""
    return training[:: max(1, len(training) // number)] if len(training) >= FEWEST_LEARNT else []


def _shuffled(n_images: int) -> list[int]:
    return torch.randperm(n_images, generator=torch.Generator().manual_seed(SEED)).tolist()


class HoldOut(Callback):
    """Hold out some training images while a model is fitted, and have each step see one of the others.

    The images are taken out of the training set, by :func:`split_indices`, only during the fit, so that the data module
    can be used again. A step trains on one image whatever the batch size of the data or ``accumulate_grad_batches``.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        # Images that the students learn from, during a fit.
        self.training: AnomalibDataset | None = None
        self._samples: Sequence[AnomalibDataset] = ()
        self._datamodule: AnomalibDataModule | None = None
        self._undo = ExitStack()

    @property
    def samples(self) -> Sequence[AnomalibDataset]:
        """Images held out, about as many learnt from, and about 50 of these; augmented as validation images are now."""
        validation = getattr(self._datamodule, "val_data", None)
        if isinstance(validation, AnomalibDataset):
            for dataset in self._samples:
                dataset.augmentations = validation.augmentations
        return self._samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the images out of a data module before its loader is built; for a validation, find the same again."""
        datamodule = self._datamodule = getattr(trainer, "datamodule", None)
        if stage == TrainerFn.VALIDATING and isinstance(datamodule, AnomalibDataModule):
            self._choose(datamodule.train_data)
        if stage == TrainerFn.TESTING and not len(getattr(datamodule, "test_data", (None,))):
            # Lightning would warn of an empty loader.
            self._set(trainer, "limit_test_batches", 0)
        if stage != TrainerFn.FITTING:
            return
        if not isinstance(datamodule, AnomalibDataModule):
            raise ValueError(NEEDS_DATA_MODULE)
        dataset = datamodule.train_data
        if len(dataset) == 0:
            raise ValueError("There are no anomaly-free images to train on: the training set is empty.")
        if len(dataset) == 1:
            logger.warning("There is a single training image: the scores are normalised on the image trained on.")
        self.training, training = dataset, self._choose(dataset)
        if not hasattr(datamodule, "val_data"):
            # Without a validation set, data modules of anomalib have no loader for one either.
            self._set(trainer, "limit_val_batches", 0)
        self._set(dataset, "samples", dataset.samples.iloc[training].reset_index(drop=True))
        for owner, name in ((datamodule, "train_batch_size"), (trainer, "accumulate_grad_batches")):
            if getattr(owner, name) != 1:
                logger.info("%s is 1 and not %s: each step trains on one image.", name, getattr(owner, name))
                self._set(owner, name, 1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise a ``ValueError`` if the trainer has a data loader, beside the data module of an earlier fit."""
        if getattr(trainer.train_dataloader, "dataset", None) is not self.training:
            raise ValueError(NEEDS_DATA_MODULE)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the images back after the fit."""
        self._undo.close()
        self.training, self._samples = None, ()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the images back if the fit is interrupted."""
        self.teardown(trainer, pl_module, TrainerFn.FITTING)

    def _choose(self, dataset: AnomalibDataset) -> list[int]:
        """Choose the samples, and return the indices to train on."""
        training, held_out = split_indices(len(dataset), self.fraction)
        learnt = [sample_learnt(training, number) for number in (len(held_out), SEEN)]
        self._samples = [dataset.subsample(each) for each in (held_out, *learnt)]
        return training

    def _set(self, owner: object, name: str, value: object) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)
