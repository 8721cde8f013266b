"""One-class classification of images in folders: one class is normal, all others are anomalies (Section 4.1)."""

from __future__ import annotations

import logging
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

from anomalib_students.data.mvtec import check_limits, draw_samples
from reproduction.one_class.dataset import OneClassDataset, list_samples

__all__ = ["OneClassImageFolder"]

logger = logging.getLogger(__name__)

LAYOUT = "Expected in it: train/<class>/<image> and test/<class>/<image>, with the normal class in both."


class OneClassImageFolder(AnomalibDataModule):
    """Images in torchvision's layout, ``train/<class>/*`` and ``test/<class>/*``, with one normal class.

    Models learn from the normal class of the training set alone, and are tested on the whole test set. Only images have
    labels: there are no masks.

    anomalib measures its threshold and the range of its 0-to-1 scores on validation images, which should hold
    anomalies. By default they are drawn from the training set, of all its classes, and those of the normal class are
    not trained on, so that the test images have no part in it. If the training set has the normal class alone, they are
    the test images, as in anomalib.

    Args:
        root: Folder of the data set.
        normal_class: Name of the normal class, which is that of its folders.
        train_batch_size: Images per training step.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Processes that load images; 0 for none but the main process, which keeps decoded images in memory.
        train_limit: Train on so many normal images at most, drawn at random; None for all.
        test_limit: Test on so many images at most, drawn at random in the proportions of the labels; None for all.
        val_limit: Validate on so many images of the training set at most.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of all images that have none of their own.
        val_split_mode: Where the validation images come from: ``from_train`` as described above, or another mode of
            anomalib.
        val_split_ratio: Share of the images to validate on, if the mode is a split.
        seed: Seed of all that is drawn.

    Raises:
        ValueError: If a limit is less than 1.

    Example:
        >>> datamodule = OneClassImageFolder(root="flowers", normal_class="tulip", train_limit=500)
        >>> datamodule.name, datamodule.category
        ('OneClassImageFolder', 'tulip')
    """

    def __init__(
        self,
        root: Path | str,
        normal_class: str | int,
        train_batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        train_limit: int | None = None,
        test_limit: int | None = None,
        val_limit: int = 1000,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TRAIN,
        val_split_ratio: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.FROM_DIR,
            seed=seed,
        )
        check_limits(train_limit=train_limit, test_limit=test_limit, val_limit=val_limit)
        self.root = Path(root)
        self.train_limit = train_limit
        self.test_limit = test_limit
        self.val_limit = val_limit
        self._draw_seed = seed
        # Where results are kept, anomalib calls it so.
        self.category = str(normal_class)

    def prepare_data(self) -> None:
        """Check that the images are there.

        Raises:
            FileNotFoundError: If the folder is missing, or is not in the layout.
            ValueError: If there is no such class.
        """
        self._list("train")
        self._list("test")

    @property
    def image_folder(self) -> Path:
        """Folder with the folders ``train`` and ``test``."""
        return self.root

    def _setup(self, _stage: str | None = None) -> None:
        training, test = self._list("train"), self._list("test")
        normal = training[training["label_index"] == LabelName.NORMAL]
        if self.val_split_mode == ValSplitMode.FROM_TRAIN and len(normal) == len(training):
            logger.warning(
                "The training images are all of the class %r: anomalib sets its threshold on the test images.",
                self.category,
            )
            self.val_split_mode = ValSplitMode.SAME_AS_TEST
        if self.val_split_mode == ValSplitMode.FROM_TRAIN:
            n_validation = min(self.val_limit, round(self.val_split_ratio * len(training)))
            validation = draw_samples(training, n_validation, self._draw_seed)
            normal = normal.drop(validation.index, errors="ignore")
            self.val_data = OneClassDataset(validation)
        self.train_data = OneClassDataset(draw_samples(normal, self.train_limit or len(normal), self._draw_seed))
        self.test_data = OneClassDataset(draw_samples(test, self.test_limit or len(test), self._draw_seed))

    def _create_test_split(self) -> None:
        """Leave the test set as it is."""

    def _create_val_split(self) -> None:
        if self.val_split_mode != ValSplitMode.FROM_TRAIN:
            super()._create_val_split()

    def _list(self, split: str) -> DataFrame:
        """List the images of the training or the test set, and check that they have the needed classes."""
        folder = self.image_folder / split
        try:
            samples = list_samples(folder, self.category)
        except FileNotFoundError as error:
            msg = (
                f"There are no folders of classes in {folder.resolve()}: name the data set's with --data.root. {LAYOUT}"
            )
            raise FileNotFoundError(msg) from error
        classes = sorted(samples["label"].unique())
        if self.category not in classes:
            msg = (
                f"There are no images of the class {self.category!r} in {folder.resolve()}: choose --data.normal_class "
                f"from {', '.join(classes) or 'folders with images'}."
            )
            raise ValueError(msg)
        if split == "test" and len(classes) == 1:
            msg = f"There are images of the class {self.category!r} alone in {folder.resolve()}. {LAYOUT}"
            raise ValueError(msg)
        return samples
