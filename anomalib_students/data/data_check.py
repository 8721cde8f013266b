"""Checks of the data before the first step: damaged files, which would be found after hours, and split test images."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName, ValSplitMode
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from anomalib_students.image_files import ImageHeader, check_image
from anomalib_students.mends import apply_mends

from .dataset import ImageFileDataset
from .layout import IMAGES

__all__ = ["CheckedImages", "ImageCheck", "check_data", "check_files"]

logger = logging.getLogger(__name__)

LISTED = 5
"""Most files that an error names."""
SUBSETS = {
    TrainerFn.FITTING: ("train_data", "val_data", "test_data"),
    TrainerFn.VALIDATING: ("val_data",),
    TrainerFn.TESTING: ("test_data",),
}
"""Subsets of a data module that are checked; all before a training, because a test usually follows."""


class Pair(NamedTuple):
    """Paths of an image and of its mask, and whether anomalib's own data sets read them."""

    image: str
    mask: str | None = None
    is_read_by_anomalib: bool = False


# All our models import this module, even if none of our data modules is imported.
apply_mends()


def check_files(pairs: Sequence[Pair]) -> None:
    """Check images, and that their masks have their sizes.

    Raises:
        ValueError: If a file can't be read, or a mask has another size than its image. It names the first ones.
    """
    # Reading files releases Python's lock.
    with ThreadPoolExecutor() as pool:
        results = pool.map(_problem_of_pair, pairs)
        # Data sets of a few thousand images need no bar.
        problems = [
            problem for problem in tqdm(results, "Checking images", len(pairs), leave=False, delay=2) if problem
        ]
    if problems:
        more = f" And {len(problems) - LISTED} more." if len(problems) > LISTED else ""
        msg = f"{' '.join(problems[:LISTED])}{more}"
        raise ValueError(msg)
    turned = [pair.image for pair in pairs if pair.is_read_by_anomalib and _checked(pair.image).is_turned]
    if turned:
        logger.warning(
            "anomalib ignores that %s (and %d more) is to be turned by its EXIF orientation. --data Parts turns it.",
            turned[0],
            len(turned) - 1,
        )


def _problem_of_pair(pair: Pair) -> str | None:
    try:
        image = _checked(pair.image)
        mask = image if pair.mask is None else _checked(pair.mask)
    except ValueError as error:
        return str(error)
    if pair.is_read_by_anomalib and image.is_clipped:
        return f"anomalib would read {pair.image}, grey with 16 bits, as white: use --data Parts, which scales it."
    if (image.width, image.height) == (mask.width, mask.height):
        return None
    return (
        f"The mask {pair.mask} has {mask.width}x{mask.height} pixels, its image {pair.image} "
        f"{image.width}x{image.height}."
    )


def _checked(path: str) -> ImageHeader:
    """Check a file, unless it has not changed since its last check."""
    status = Path(path).stat()
    return _checked_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2**17)
def _checked_once(path: str, modified: int, length: int) -> ImageHeader:
    return check_image(path)


def check_data(datamodule: object) -> int:
    """Check all images and masks that training, validation and test of a data module read, and return their number.

    Raises:
        ValueError: If a file can't be read, or a mask has another size than its image.
    """
    pairs = _pairs_of_all([getattr(datamodule, name, None) for name in SUBSETS[TrainerFn.FITTING]])
    check_files(pairs)
    return len(pairs)


class ImageCheck(Callback):
    """Check the files of the data before they are used, and log which test images a training validates with."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the files of the data module."""
        data = getattr(trainer, "datamodule", None)
        subsets = [getattr(data, name, None) for name in SUBSETS.get(TrainerFn(stage), ())]
        _check_datasets(trainer, subsets)
        if TrainerFn(stage) == TrainerFn.FITTING and trainer.is_global_zero:
            _say_split(data)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images to predict."""
        loaders = trainer.predict_dataloaders
        loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
        _check_datasets(trainer, [getattr(loader, "dataset", None) for loader in loaders])


def _check_datasets(trainer: Trainer, datasets: Sequence[object]) -> None:
    # One process of each machine, which may have files of its own.
    if trainer.local_rank == 0:
        check_files(_pairs_of_all(datasets))


def _say_split(data: object) -> None:
    """Log how many test images anomalib has taken for the validation."""
    if getattr(data, "val_split_mode", None) != ValSplitMode.FROM_TEST:
        return
    taken, left = (getattr(data, name, None) for name in ("val_data", "test_data"))
    if isinstance(taken, AnomalibDataset) and isinstance(left, AnomalibDataset):
        logger.warning(
            "Of the test images, %s became validation images; the test has the other %s. Set val_split_ratio of the "
            "data for another fraction, or val_split_mode for validation images from elsewhere.",
            _count(taken),
            _count(left),
        )


def _count(dataset: AnomalibDataset) -> str:
    """Count good and anomalous images."""
    anomalous = int((dataset.samples["label_index"] == LabelName.ABNORMAL).sum())
    return f"{len(dataset) - anomalous} good and {anomalous} anomalous ones"


def _pairs_of_all(datasets: Sequence[object]) -> list[Pair]:
    return list(dict.fromkeys(pair for dataset in datasets for pair in _pairs(dataset)))


def _pairs(dataset: object) -> list[Pair]:
    if isinstance(dataset, AnomalibDataset):
        samples = dataset.samples
        masks = samples["mask_path"] if "mask_path" in samples else [None] * len(samples)
        # What is good has no mask: an empty text or no value.
        paths = [
            (path, mask if _is_image(mask) else None) for path, mask in zip(samples["image_path"], masks, strict=True)
        ]
    else:
        paths = [(path, None) for path in getattr(dataset, "image_filenames", ())]
    # Videos are not checked.
    by_anomalib = not isinstance(dataset, ImageFileDataset)
    return [Pair(str(image), mask, by_anomalib) for image, mask in paths if _is_image(image)]


def _is_image(path: object) -> bool:
    return isinstance(path, str | Path) and Path(path).suffix.lower() in IMAGES


class CheckedImages(LightningModule):
    """Mixin of anomalib models whose data are checked before they are used.

    It goes before ``AnomalibModule`` among the base classes.
    """

    def configure_callbacks(self) -> Sequence[Callback]:
        """Check before other callbacks, which may take images out of the data."""
        return [ImageCheck(), *super().configure_callbacks()]  # type: ignore[misc]
