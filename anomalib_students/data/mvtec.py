"""MVTec AD, and any data set in its layout, with the paper's batch size."""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.data.datasets.image.mvtecad import CATEGORIES
from anomalib.data.utils import ValSplitMode

from .parts import Parts

DEFAULT_ROOT = "./datasets/MVTecAD"
LAYOUT = (
    "Expected in it: train/good/*.png, test/good/*.png, test/<defect>/*.png and ground_truth/<defect>/*.png, "
    "where a mask is named like its image (000.png) or with a suffix (000_mask.png)."
)
# What a failed transfer, a wrong checksum and a broken archive raise.
DOWNLOAD_ERRORS = (OSError, ValueError, EOFError, tarfile.TarError, lzma.LZMAError)


class MVTec(Parts):
    """MVTec AD, trained with one image per step as in the paper.

    The categories of MVTec AD are downloaded by anomalib if ``root`` is the default (or None, anomalib's cache folder).
    Under another ``root``, ``category`` is any folder in MVTec AD's layout. For a prediction, the test images are read.

    Args:
        root: Folder of the data set; None for anomalib's cache folder.
        category: Folder in it with the images of one kind of object.
        num_workers: Processes that load images.
        val_split_mode: Where validation images come from, as for :class:`~anomalib_students.data.parts.Parts`.
        val_split_ratio: Fraction of the images to validate on, if the mode is a split.
        kwargs: Other arguments of :class:`~anomalib_students.data.parts.Parts`.
    """

    # Not those of a single folder: the name is the class's, and the test images are predicted.
    name = AnomalibDataModule.name
    setup = AnomalibDataModule.setup
    predict_dataloader = AnomalibDataModule.predict_dataloader

    def __init__(
        self,
        root: Path | str | None = DEFAULT_ROOT,
        category: str = "bottle",
        num_workers: int = 8,
        val_split_mode: ValSplitMode | str | None = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        **kwargs: Any,
    ) -> None:
        self._anomalibs = MVTecAD(root=root, category=category)
        super().__init__(
            root=self._anomalibs.root,
            num_workers=num_workers,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            **kwargs,
        )
        self.category = category
        self.folder = self.root / category
        self._is_downloadable = category in CATEGORIES and (root is None or Path(root) == Path(DEFAULT_ROOT))

    def prepare_data(self) -> None:
        """Download a missing data set to the default ``root``; raise a ``FileNotFoundError`` if that fails."""
        if self._is_downloadable and not self.folder.is_dir():
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

    def _setup(self, _stage: str | None = None) -> None:
        check_layout(self.root, self.category)
        super()._setup(_stage)


def check_layout(root: Path, category: str) -> None:
    """Raise a ``FileNotFoundError`` unless a category has good training images in the layout of MVTec AD."""
    good = root / category / "train" / "good"
    if not any(good.glob("*.*")):
        found = sorted(path.parent.name for path in root.glob("*/train"))
        choice = f"has the categories {', '.join(found)}" if found else "has no category"
        unknown = "" if category in CATEGORIES else f" {category!r} isn't one of MVTec AD's: {', '.join(CATEGORIES)}."
        msg = (
            f"There are no images in {good.resolve()}; {root.resolve()} {choice}.{unknown} Name the data set's folder "
            f"with --data.root and the category's with --data.category. {LAYOUT}"
        )
        raise FileNotFoundError(msg)
