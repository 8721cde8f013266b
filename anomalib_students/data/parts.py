"""A data module that finds out by itself what is what in a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from pandas import DataFrame, concat
from torch.utils.data import DataLoader

from anomalib_students.image_files import allow_pixels

from .dataset import ImageFileDataset
from .layout import find_images, list_parts


class Parts(AnomalibDataModule):
    """Images of parts in a folder, for any model of anomalib.

    A folder of images, in any folders below it, is taken for good parts to train on. If folders are named
    ``good``, all others are kinds of defects, which are tested on. The layout of MVTec AD (``train/good``,
    ``test/<kind>``, ``ground_truth/<kind>``) is known too. Masks are in a folder ``masks`` or ``ground_truth``, or
    beside the images as ``NAME_mask.png``. What was taken for what is logged. Grey images of 16 bits are scaled to 8,
    images are turned as viewers do, and hidden files are skipped. For a prediction, all images are read.

    Args:
        root: Folder of the images.
        good: Name of the folders of good images; None for ``good``, ``ok`` or ``normal``.
        train_batch_size: Images per training step; the paper's is 1.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Processes that load images; 0 for none but the main process.
        test_split_ratio: Fraction of the good images to test on, if there are images with defects but no good ones in
            a folder ``test``.
        val_split_mode: Where validation images come from, one of anomalib's modes. None for none if the model needs
            none, as ours, and otherwise for the test images or, if none has a defect, for a fraction of the good ones.
        val_split_ratio: Fraction of the images to validate on, if the mode is a split.
        seed: Seed of the splits.
        max_pixels: Largest number of pixels of an image that is no attack; None for Pillow's limit.
        kwargs: Augmentations, as of anomalib's data modules.

    Raises:
        ValueError: If ``test_split_ratio`` or ``max_pixels`` is out of range, or, in :meth:`setup`, it is not clear
            which images are good or which mask belongs to which image, or none is good.
        FileNotFoundError: In :meth:`setup`, if there is no such folder, or no image in it.
    """

    def __init__(
        self,
        root: Path | str,
        good: str | None = None,
        train_batch_size: int = 1,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str | None = None,
        val_split_ratio: float = 0.2,
        seed: int = 0,
        max_pixels: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=TestSplitMode.FROM_DIR,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
            **kwargs,
        )
        if not 0 <= test_split_ratio < 1:
            raise ValueError(f"test_split_ratio must lie in [0, 1), got {test_split_ratio}.")
        # Where it is 0, anomalib's becomes 0.5.
        self.test_split_ratio = test_split_ratio
        self.root = self.folder = Path(root)
        self.good = good
        self.max_pixels = max_pixels
        self._chooses_validation = val_split_mode is None
        allow_pixels(max_pixels)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the folder, after which anomalib names that of the results."""
        return self.root.resolve().name or type(self).__name__

    def setup(self, stage: str | None = None) -> None:
        """Find the images, and divide them unless they are only predicted."""
        if stage != TrainerFn.PREDICTING:
            super().setup(stage)
            return
        paths = [str(path) for path in find_images(self.folder)[0]]
        unknown = {"label": "", "label_index": int(LabelName.UNKNOWN), "mask_path": "", "split": "predict"}
        self.predict_data = ImageFileDataset(DataFrame({"image_path": paths, **unknown}), max_pixels=self.max_pixels)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the validation images, or none if there are none."""
        return super().val_dataloader() if len(getattr(self, "val_data", ())) else []

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the test images, or none if there are none."""
        return super().test_dataloader() if len(self.test_data) else []

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Return a loader of all images, one at a time because their sizes may differ."""
        return DataLoader(self.predict_data, num_workers=self.num_workers, collate_fn=self.predict_data.collate_fn)

    def _setup(self, _stage: str | None = None) -> None:
        samples = list_parts(self.folder, self.good)
        training, test = (
            samples[(samples["split"] == split) & (samples["label"] != "")] for split in ("train", "test")
        )
        drawn = training.iloc[:0]
        if len(test) and LabelName.NORMAL not in set(test["label_index"]):
            drawn = training.sample(int(self.test_split_ratio * len(training)), random_state=self.seed)
            training = training.drop(drawn.index)
        rank_zero_info(_describe(self.folder, training, test, drawn, samples[samples["label"] == ""]))
        if _stage == TrainerFn.FITTING and training.empty:
            raise ValueError(f"There are no images of good parts to train on in {self.folder.resolve()}.")
        has_masks = bool((test["mask_path"] != "").any())
        self.train_data, self.test_data = (
            ImageFileDataset(table.assign(split=split), has_masks, self.max_pixels)
            for split, table in (("train", training), ("test", concat([test, drawn])))
        )
        # Of an earlier setup.
        vars(self).pop("val_data", None)
        self._stage = _stage

    def _create_test_split(self) -> None:
        """Leave the test images as they are."""

    def _create_val_split(self) -> None:
        model = getattr(self.trainer, "lightning_module", None)
        needs_images = getattr(model, "needs_validation", True)
        if self._chooses_validation:
            mode = ValSplitMode.SAME_AS_TEST if self.test_data.has_anomalous else ValSplitMode.FROM_TRAIN
            self.val_split_mode = mode if needs_images else ValSplitMode.NONE
        super()._create_val_split()
        if self._stage == TrainerFn.VALIDATING and not hasattr(self, "val_data"):
            # A validation without images would be skipped, and with it the choice of a threshold.
            self.val_data = self.test_data if len(self.test_data) else self.train_data.subsample([0])


def _describe(folder: Path, training: DataFrame, test: DataFrame, drawn: DataFrame, ignored: DataFrame) -> str:
    """Say in a few lines what is used for what."""
    kinds = [
        f"{len(images)} {label}" + (" (with masks)" if (images["mask_path"] != "").any() else "")
        for label, images in test.groupby("label")
    ]
    if len(drawn):
        kinds.append(f"{len(drawn)} good, drawn from the others")
    tested = ", ".join(kinds) or "none, because there is no folder of defects"
    text = f"Images in {folder.resolve()}:\n  to train on: {len(training)} good\n  to test on: {tested}"
    if len(ignored):
        text += f"\n  ignored: {len(ignored)} beside the folders, as {ignored['image_path'].iloc[0]}"
    return text
