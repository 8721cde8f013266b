"""Checks of image files before the first step, because a damaged one would otherwise be found after hours."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from anomalib.data import AnomalibDataset
from anomalib.data.utils import ValSplitMode
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from pandas import DataFrame
from tqdm import tqdm

from anomalib_students.image_files import IMAGES, ImageHeader, check_image

from .dataset import ImageFileDataset

LISTED = 5  # Most files that an error names.
SUBSETS = {
    TrainerFn.FITTING: ("train_data", "val_data", "test_data"),
    TrainerFn.VALIDATING: ("val_data",),
    TrainerFn.TESTING: ("test_data",),
}
"""Subsets of a data module that are checked: before a training all, because a test usually follows."""


class _Pair(NamedTuple):
    """Paths of an image and its mask, and whether anomalib's own data sets read them."""

    image: str
    mask: str | None
    is_read_by_anomalib: bool


class ImageCheck(Callback):
    """Check the files of the data before they are used, and log which test images a training validates with."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the files of the data module."""
        data: Any = getattr(trainer, "datamodule", None)
        # One process of each machine, which may have files of its own.
        if trainer.local_rank == 0:
            _check([getattr(data, name, None) for name in SUBSETS.get(TrainerFn(stage), ())])
        if stage == TrainerFn.FITTING and getattr(data, "val_split_mode", None) == ValSplitMode.FROM_TEST:
            rank_zero_warn(
                f"{len(data.val_data)} of the test images became validation images; the test has the other "
                f"{len(data.test_data)}. Set val_split_ratio of the data for another fraction, or val_split_mode."
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images to predict."""
        loaders: Any = trainer.predict_dataloaders
        if trainer.local_rank == 0:
            _check([loader.dataset for loader in (loaders if isinstance(loaders, list | tuple) else [loaders])])


def check_data(datamodule: object) -> None:
    """Raise a ``ValueError`` if a data module has damaged images, or masks of another size than their image."""
    _check([getattr(datamodule, name, None) for name in SUBSETS[TrainerFn.FITTING]])


def _check(datasets: Sequence[object]) -> None:
    pairs = list(dict.fromkeys(pair for dataset in datasets for pair in _pairs(dataset)))
    # Reading files releases Python's lock. Data sets of a few thousand images need no bar.
    with ThreadPoolExecutor() as pool:
        results = pool.map(_problem, pairs)
        problems = [found for found in tqdm(results, "Checking images", len(pairs), leave=False, delay=2) if found]
    if problems:
        more = [f"And {len(problems) - LISTED} more."] if len(problems) > LISTED else []
        raise ValueError(" ".join(problems[:LISTED] + more))
    turned = [pair.image for pair in pairs if pair.is_read_by_anomalib and _checked(pair.image).is_turned]
    if turned:
        rank_zero_warn(
            f"anomalib ignores that {turned[0]} (and {len(turned) - 1} more) is to be turned by its EXIF orientation: "
            "--data Parts turns it."
        )


def _pairs(dataset: object) -> list[_Pair]:
    """List the image files of a data set, but no videos."""
    if isinstance(dataset, AnomalibDataset):
        table = dataset.samples.reindex(columns=["image_path", "mask_path"])
    else:
        table = DataFrame({"image_path": list(getattr(dataset, "image_filenames", ())), "mask_path": None})
    by_anomalib = not isinstance(dataset, ImageFileDataset)
    # What is good has no mask: an empty text or no value.
    pairs = [(str(image), mask if _is_image(mask) else None) for image, mask in table.to_numpy() if _is_image(image)]
    return [_Pair(*pair, by_anomalib) for pair in pairs]


def _is_image(path: object) -> bool:
    return isinstance(path, str | Path) and Path(path).suffix.lower() in IMAGES


def _problem(pair: _Pair) -> str | None:
    try:
        image = _checked(pair.image)
        mask = image if pair.mask is None else _checked(pair.mask)
    except ValueError as error:
        return str(error)
    if pair.is_read_by_anomalib and image.is_clipped:
        return f"anomalib would read {pair.image}, grey with 16 bits, as white: use --data Parts, which scales it."
    if image[:2] == mask[:2]:
        return None
    return "The mask {} has {}x{} pixels, its image {} {}x{}.".format(pair.mask, *mask[:2], pair.image, *image[:2])


def _checked(path: str) -> ImageHeader:
    """Check a file, unless it has not changed since its last check."""
    status = Path(path).stat()
    return _checked_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2**17)
def _checked_once(path: str, modified: int, length: int) -> ImageHeader:
    return check_image(path)
