"""MVTec AD, and any data set in its layout, with the paper's batch size."""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.data.datasets.image.mvtecad import CATEGORIES
from anomalib.data.utils import ValSplitMode
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

from .parts import Parts

__all__ = ["MVTec", "check_limits", "draw_samples"]

DEFAULT_ROOT = "./datasets/MVTecAD"
LAYOUT = (
    "Expected in it: train/good/*.png, test/good/*.png, test/<defect>/*.png and ground_truth/<defect>/*.png, "
    "where a mask is named like its image (000.png) or with a suffix (000_mask.png)."
)
# What a failed transfer, a wrong checksum and a broken archive raise.
DOWNLOAD_ERRORS = (OSError, ValueError, EOFError, tarfile.TarError, lzma.LZMAError)


def check_limits(**limits: int | None) -> None:
    """Raise a ``ValueError`` if a limit, named as its argument, is less than 1."""
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            msg = f"{name} must be at least 1, got {limit}."
            raise ValueError(msg)


def draw_samples(samples: DataFrame, n_samples: int, seed: int) -> DataFrame:
    """Draw about ``n_samples`` at random, in the proportions of their labels and at least one of each."""
    if n_samples >= len(samples):
        return samples
    fraction = n_samples / len(samples)
    groups = [group for _, group in samples.groupby("label_index")]
    return pd.concat([group.sample(max(1, round(fraction * len(group))), random_state=seed) for group in groups])


class MVTec(Parts):
    """MVTec AD, trained with one image per step as in the paper.

    The categories of MVTec AD are downloaded by anomalib if ``root`` is the default (or None, anomalib's cache folder).
    Under another ``root``, ``category`` is any folder in MVTec AD's layout.

    Args:
        root: Folder of the data set; None for anomalib's cache folder.
        category: Folder in it with the images of one kind of object.
        train_batch_size: Images per training step; the paper's is 1.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Processes that load images.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of all images that have none of their own.
        test_split_ratio: Fraction of the training images to test on, if there are no good test images.
        val_split_mode: Where the validation images come from.
        val_split_ratio: Fraction of the images to validate on, if the mode is a split.
        seed: Seed of the splits, and of what the limits draw.
        train_limit: Train on so many images at most, drawn at random; None for all.
        test_limit: Test on so many images at most, drawn at random in the proportions of good and defective ones; None
            for all.

    Raises:
        ValueError: If a limit is less than 1.

    Example:
        >>> datamodule = MVTec(category="pill")
        >>> datamodule.name, datamodule.category, datamodule.train_batch_size
        ('MVTec', 'pill', 1)
    """

    def __init__(
        self,
        root: Path | str | None = DEFAULT_ROOT,
        category: str = "bottle",
        train_batch_size: int = 1,
        eval_batch_size: int = 8,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int = 0,
        train_limit: int | None = None,
        test_limit: int | None = None,
    ) -> None:
        check_limits(train_limit=train_limit, test_limit=test_limit)
        self._anomalibs = MVTecAD(root=root, category=category)
        super().__init__(
            root=self._anomalibs.root,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.category = category
        self.train_limit = train_limit
        self.test_limit = test_limit
        self._downloadable = category in CATEGORIES and (root is None or self.root == Path(DEFAULT_ROOT))

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the class."""
        return type(self).__name__

    @property
    def folder(self) -> Path:
        """Folder of the category."""
        return self.root / self.category

    def prepare_data(self) -> None:
        """Download the data set if it's missing and ``root`` is the default.

        Raises:
            FileNotFoundError: If the category's folder is missing and can't be downloaded, or isn't in the layout of
                MVTec AD.
        """
        if self._downloadable and not self.folder.is_dir():
            try:
                self._anomalibs.prepare_data()
            except DOWNLOAD_ERRORS as error:
                msg = (
                    f"MVTec AD isn't in {self.root.resolve()}, and its download failed: {error}. If the data set is "
                    f"elsewhere, name its folder with --data.root; the one looked for is {self.folder.resolve()}. "
                    f"{LAYOUT} If an archive is left in {self.root.resolve()}, delete it before trying again."
                )
                raise FileNotFoundError(msg) from error
        check_layout(self.root, self.category)

    def setup(self, stage: str | None = None) -> None:
        """Find training and test images; for a prediction, the test images are used."""
        AnomalibDataModule.setup(self, stage)

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the test images."""
        return self.test_dataloader()

    def _setup(self, _stage: str | None = None) -> None:
        check_layout(self.root, self.category)
        super()._setup(_stage)
        for dataset, limit in ((self.train_data, self.train_limit), (self.test_data, self.test_limit)):
            drawn = draw_samples(dataset.samples, limit or len(dataset), self.seed or 0)
            dataset.subsample(sorted(drawn.index), inplace=True)


def check_layout(root: Path, category: str) -> None:
    """Check that a category's folder has good training images in the layout of MVTec AD.

    Raises:
        FileNotFoundError: If it hasn't.
    """
    folder = root / category
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/train") if path.is_dir())
        choice = f"has the categories {', '.join(found)}" if found else "has no category"
        unknown = "" if category in CATEGORIES else f" {category!r} isn't one of MVTec AD's: {', '.join(CATEGORIES)}."
        msg = (
            f"There is no folder {folder.resolve()}; {root.resolve()} {choice}.{unknown} Name the data set's folder "
            f"with --data.root and the category's with --data.category. {LAYOUT} Without --data.root, anomalib "
            f"downloads MVTec AD to {DEFAULT_ROOT}."
        )
        raise FileNotFoundError(msg)
    if not any((folder / "train" / "good").glob("*.*")):
        msg = f"There are no images in {(folder / 'train' / 'good').resolve()}. {LAYOUT}"
        raise FileNotFoundError(msg)
