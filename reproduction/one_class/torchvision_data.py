"""MNIST and CIFAR-10 with one normal class, as in Section 4.1.

torchvision downloads and reads the data sets. Their images are then written to a folder in the user's cache, once for
all classes, because anomalib's visualizer, predictions and data sets know images by their path.
"""

from __future__ import annotations

import hashlib
import pickle
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torchvision.datasets import CIFAR10, MNIST

from anomalib_students.files import ensure_folder
from reproduction.one_class.folder import OneClassImageFolder

__all__ = ["OneClassCIFAR10", "OneClassMNIST"]

DEFAULT_ROOT = "./datasets"
DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# What torchvision raises for files that are missing, damaged or cannot be downloaded.
READING_ERRORS = (
    *(AssertionError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    pickle.UnpicklingError,
)


class LabelledImages(NamedTuple):
    """All images of a training or test set.

    Attributes:
        pixels: Images of shape ``(N, H, W)``, or ``(N, H, W, 3)`` in RGB, in bytes.
        targets: Numbers of their classes, of shape ``(N,)``.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]


class OneClassMNIST(OneClassImageFolder):
    """MNIST with one normal digit.

    Models learn from that digit's training images, about 6,000, and are tested on all 10,000 test images. The data set
    is downloaded by torchvision if ``root`` is the default. In the first use, its images are written to a cache folder
    as 70,000 small files.

    Args:
        root: Folder with the folder ``MNIST``, or that folder itself; in it is ``raw``, as torchvision writes it.
        normal_class: The normal digit.
        cache_dir: Folder to keep the images in; None for the user's cache folder.
        kwargs: See :class:`OneClassImageFolder`.

    Raises:
        ValueError: If there is no such class.

    Example:
        >>> datamodule = OneClassMNIST(normal_class=8, train_limit=2000)
        >>> datamodule.name, datamodule.category
        ('OneClassMNIST', '8')
    """

    def __init__(
        self,
        root: Path | str = DEFAULT_ROOT,
        normal_class: int | str = 0,
        cache_dir: Path | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, _class_name(normal_class, DIGITS), **kwargs)
        self.cache_dir = cache_dir

    @cached_property
    def image_folder(self) -> Path:
        """Folder with the images, which are written to it if they are not there.

        Raises:
            FileNotFoundError: If the data set is missing, and cannot be downloaded.
            ValueError: If its files are damaged.
            OSError: If the folder cannot be written.
        """
        return _ensure_images(MNIST, "MNIST", DIGITS, self.root, self.cache_dir)


class OneClassCIFAR10(OneClassImageFolder):
    """CIFAR-10 with one normal class.

    Models learn from that class's 5,000 training images, and are tested on all 10,000 test images. The data set is
    downloaded by torchvision if ``root`` is the default. In the first use, its images are written to a cache folder as
    60,000 small files.

    Args:
        root: Folder with the folder ``cifar-10-batches-py``, or that folder itself.
        normal_class: Name or number of the normal class: ``airplane`` (0), ``automobile``, ``bird``, ``cat``, ``deer``,
            ``dog``, ``frog``, ``horse``, ``ship`` or ``truck`` (9).
        cache_dir: Folder to keep the images in; None for the user's cache folder.
        kwargs: See :class:`OneClassImageFolder`.

    Raises:
        ValueError: If there is no such class.

    Example:
        >>> datamodule = OneClassCIFAR10(normal_class=3)
        >>> datamodule.name, datamodule.category
        ('OneClassCIFAR10', 'cat')
    """

    def __init__(
        self,
        root: Path | str = DEFAULT_ROOT,
        normal_class: str | int = "airplane",
        cache_dir: Path | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, _class_name(normal_class, CIFAR10_CLASSES), **kwargs)
        self.cache_dir = cache_dir

    @cached_property
    def image_folder(self) -> Path:
        """Folder with the images, which are written to it if they are not there.

        Raises:
            FileNotFoundError: If the data set is missing, and cannot be downloaded.
            ValueError: If its files are damaged.
            OSError: If the folder cannot be written.
        """
        return _ensure_images(CIFAR10, CIFAR10.base_folder, CIFAR10_CLASSES, self.root, self.cache_dir)


def _class_name(normal_class: str | int, classes: tuple[str, ...]) -> str:
    """Name of a class that is given by its name or number."""
    numbers = {str(number): name for number, name in enumerate(classes)}
    name = numbers.get(str(normal_class), str(normal_class))
    if name not in classes:
        msg = f"There is no class {normal_class!r}: choose --data.normal_class from {', '.join(classes)}."
        raise ValueError(msg)
    return name


def _ensure_images(
    dataset: type[MNIST | CIFAR10], name: str, classes: tuple[str, ...], root: Path, cache_dir: Path | str | None
) -> Path:
    """Write the images of a data set of torchvision to a folder, unless they are there, and return the folder."""
    splits = {split: _read(dataset, name, root, split) for split in ("train", "test")}
    cache = platformdirs.user_cache_path("anomalib-students") / "one_class" if cache_dir is None else Path(cache_dir)
    # The digest keeps the images of one data set from being taken for those of another.
    folder = cache / f"{dataset.__name__.lower()}-{_digest(splits)}"
    try:
        ensure_folder(
            folder,
            is_complete=partial(_is_complete, splits=splits, classes=classes),
            write=partial(_write_images, splits=splits, classes=classes),
        )
    except OSError as error:
        msg = f"Can't write the images to {folder}: {error}. Name a folder that can be written with --data.cache_dir."
        raise OSError(msg) from error
    return folder.resolve()


def _read(dataset: type[MNIST | CIFAR10], name: str, root: Path, split: str) -> LabelledImages:
    """Have torchvision read the training or the test set, and download the data set if the root is the default."""
    is_default = root == Path(DEFAULT_ROOT)
    folder = root if root.name == name else root / name
    try:
        source = dataset(folder.parent, train=split == "train", download=is_default)
        images = LabelledImages(np.asarray(source.data), np.asarray(source.targets))
        if len(images.pixels) != len(images.targets):
            msg = f"{len(images.pixels)} images, but {len(images.targets)} labels"
            raise ValueError(msg)
    except READING_ERRORS as error:
        is_missing = not folder.is_dir()
        reason = " ".join(str(error).split())
        msg = (
            f"{dataset.__name__} is {'missing' if is_missing else 'incomplete or damaged'} in {folder.resolve()} "
            f"({reason}). Name the folder around torchvision's folder {name!r} with --data.root; without --data.root, "
            f"torchvision downloads it to {DEFAULT_ROOT}."
        )
        raise (FileNotFoundError if is_missing else ValueError)(msg) from error
    return images


def _digest(splits: dict[str, LabelledImages]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for images in splits.values():
        digest.update(images.pixels.tobytes())
        digest.update(images.targets.tobytes())
    return digest.hexdigest()


def _is_complete(folder: Path, splits: dict[str, LabelledImages], classes: tuple[str, ...]) -> bool:
    """Whether the folder has as many images of each class as the data set."""
    return all(
        sum(1 for _ in (folder / split / name).glob("*.png")) == np.count_nonzero(images.targets == number)
        for split, images in splits.items()
        for number, name in enumerate(classes)
    )


def _write_images(folder: Path, splits: dict[str, LabelledImages], classes: tuple[str, ...]) -> None:
    """Write the images to ``<split>/<class>/<number in the set>.png``."""
    for split, images in splits.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
        numbered = track(
            enumerate(zip(images.pixels, images.targets, strict=True)),
            description=f"Writing {len(images.targets)} images to {split}",
            total=len(images.targets),
            # A console of its own, because one console cannot show two progress bars.
            console=Console(stderr=True),
        )
        for number, (pixels, target) in numbered:
            path = folder / split / classes[target] / f"{number:05d}.png"
            # More compression hardly makes small pictures smaller.
            Image.fromarray(pixels).save(path, compress_level=1)
