"""The images that a figure shows: test images of a data module, or files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from anomalib.data import AnomalibDataset, ImageBatch, ImageItem, PredictDataset
from anomalib.data.utils import LabelName
from pandas import DataFrame
from rich.progress import track
from torch.utils.data import ConcatDataset

__all__ = ["Images", "image_files", "named_images", "read_examples", "spread_over_types"]

Images = AnomalibDataset | ConcatDataset[ImageItem]
"""Test images of a data module, or files."""


def spread_over_types(dataset: AnomalibDataset, n_images: int | None, only_defective: bool = False) -> AnomalibDataset:
    """Choose images of as many types of defects as possible: the first of each type, then the second, and so on.

    The choice depends on the data alone, so that no model is shown at its best. The type of an image is the name of its
    folder, as in MVTec AD, where ``good`` is one too. With ``only_defective``, good images are chosen only if there are
    no others.
    """
    if n_images is not None and n_images < 1:
        msg = f"n_images must be at least 1, got {n_images}."
        raise ValueError(msg)
    samples = dataset.samples
    if only_defective:
        defective = samples[samples["label_index"] == LabelName.ABNORMAL]
        samples = samples if defective.empty else defective
    types = samples["image_path"].map(lambda path: Path(path).parent.name)
    rank_in_type = samples.groupby(types).cumcount()
    return dataset.subsample(sorted(rank_in_type.sort_values(kind="stable").index[:n_images]))


def named_images(dataset: AnomalibDataset, paths: Sequence[Path]) -> AnomalibDataset:
    """Choose images by their paths or the ends of them, such as ``crack/000.png``, in the order of the data set.

    Raises a ``ValueError`` if a path fits none, or several of the images.
    """
    return dataset.subsample(sorted({_position(dataset.samples, path) for path in paths}))


def image_files(paths: Sequence[Path]) -> Images:
    """Read images from files and folders, without ground truth, in the order of the paths."""
    if not paths:
        msg = "There are no images to show: name some."
        raise ValueError(msg)
    return ConcatDataset([PredictDataset(path) for path in paths])


def read_examples(dataset: Images, description: str | None = None) -> Iterator[ImageBatch]:
    """Read the images of a data set in batches of one, with a progress bar if there is a ``description``.

    Raises a ``ValueError`` that names the image if it cannot be read.
    """
    for position in track(range(len(dataset)), description=description or "", disable=description is None):
        try:
            item = dataset[position]
        except (OSError, SyntaxError, ValueError) as error:
            # The decoder does not name the image.
            msg = f"Cannot read {_path(dataset, position)}: {error}. Repair or remove it."
            raise ValueError(msg) from error
        yield cast("ImageBatch", ImageBatch.collate([cast("ImageItem", item)]))


def _position(samples: DataFrame, path: Path) -> int:
    length = len(path.parts)
    found = [index for index, own in enumerate(samples["image_path"]) if Path(own).parts[-length:] == path.parts]
    if len(found) != 1:
        types = sorted({Path(own).parent.name for own in samples["image_path"]})
        what = f"{len(found)} test images are" if found else "No test image is"
        msg = f"{what} named {path}. Name them as crack/000.png; there are the folders {', '.join(types)}."
        raise ValueError(msg)
    return found[0]


def _path(dataset: Images, position: int) -> str:
    if isinstance(dataset, AnomalibDataset):
        return str(dataset.samples["image_path"].iloc[position])
    return str([name for files in dataset.datasets for name in cast("PredictDataset", files).image_filenames][position])
