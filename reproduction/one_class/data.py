"""MNIST and CIFAR-10 as patches, with one normal class."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets import CIFAR10, MNIST
from torchvision.transforms.v2.functional import normalize, resize

from reproduction.paper_tables import TABLE_6, TABLE_7

__all__ = ["CLASSES", "DATA_SETS", "Data", "OneClass", "class_names", "read_one_class"]

Data = Literal["mnist", "cifar10"]
DATA_SETS = Path("datasets")
"""Folder to which torchvision downloads."""
CLASSES = {"mnist": tuple(TABLE_6.index), "cifar10": tuple(TABLE_7.index)}
"""Names of the classes, by their numbers."""
# What torchvision raises for files that are missing, damaged or cannot be downloaded.
READING_ERRORS = (
    *(AssertionError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    pickle.UnpicklingError,
)


class OneClass(NamedTuple):
    """Normalised images of shape ``(N, 3, p, p)``: of the normal class to train on, and of all classes to test on.

    ``is_anomalous`` has the shape ``(N,)`` of the test images.
    """

    training: torch.Tensor
    test: torch.Tensor
    is_anomalous: torch.Tensor


def class_names(data: Data, classes: Sequence[int | str] | None) -> list[str]:
    """Name the classes given by name or number, None for all; raise a ValueError if there is no such class."""
    names = CLASSES[data]
    numbers = {str(number): name for number, name in enumerate(names)}
    chosen = list(names) if classes is None else [numbers.get(str(name), str(name)) for name in classes]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        msg = f"There is no class {', '.join(unknown)} in {data}: its classes are {', '.join(names)}."
        raise ValueError(msg)
    return chosen


def read_one_class(
    data: Data,
    root: Path,
    normal_class: str,
    patch_size: int,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
) -> OneClass:
    """Read the images of a data set, resized to the side p of a patch.

    Args:
        data: Data set.
        root: Folder with torchvision's folder of the data set. If it is :data:`DATA_SETS`, torchvision downloads it.
        normal_class: Name of the normal class.
        patch_size: Side p in pixels.
        train_limit: Most images of the normal class to train on, drawn at random; None for all.
        test_limit: Most images to test on, drawn in the proportions of normal and anomalous ones; None for all.
        seed: Seed of the draws.

    Raises:
        FileNotFoundError: If the data set is missing, and cannot be downloaded.
        ValueError: If its files are damaged.
    """
    number = CLASSES[data].index(normal_class)
    generator = torch.Generator().manual_seed(seed)
    pixels, targets = _read(data, root, is_training=True)
    normal = pixels[_draw(targets == number, train_limit, generator)]
    pixels, targets = _read(data, root, is_training=False)
    share = 1 if test_limit is None else min(1, test_limit / len(pixels))
    groups = [targets == number, targets != number]
    chosen = torch.cat([_draw(group, round(share * int(group.sum())), generator) for group in groups])
    return OneClass(_patches(normal, patch_size), _patches(pixels[chosen], patch_size), targets[chosen] != number)


def _draw(group: torch.Tensor, limit: int | None, generator: torch.Generator) -> torch.Tensor:
    """Draw at most ``limit`` of the indices at which ``group`` is true."""
    indices = group.nonzero().squeeze(1)
    return indices[torch.randperm(len(indices), generator=generator)[:limit]]


def _read(data: Data, root: Path, is_training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Read pixels ``(N, 3, H, W)`` in bytes and the numbers of their classes ``(N,)``."""
    dataset = MNIST if data == "mnist" else CIFAR10
    try:
        source = dataset(root, train=is_training, download=root == DATA_SETS)
        pixels, targets = torch.from_numpy(np.asarray(source.data)), torch.as_tensor(source.targets)
        if len(pixels) != len(targets):
            msg = f"there are {len(pixels)} images, but {len(targets)} labels"
            raise ValueError(msg)
    except READING_ERRORS as error:
        folder = root / ("MNIST" if dataset is MNIST else CIFAR10.base_folder)
        what = "incomplete or damaged" if folder.is_dir() else "missing"
        msg = (
            f"{dataset.__name__} is {what} in {folder.resolve()} ({' '.join(str(error).split())}). Name the folder "
            f"around it with --root; without --root, torchvision downloads it to {DATA_SETS}."
        )
        raise (ValueError if folder.is_dir() else FileNotFoundError)(msg) from error
    return (pixels[:, None].expand(-1, 3, -1, -1) if pixels.ndim == 3 else pixels.movedim(-1, 1)), targets


def _patches(pixels: torch.Tensor, side: int) -> torch.Tensor:
    images = resize(pixels.float() / 255, [side, side], antialias=True)
    return normalize(images, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
