"""Images of several classes, one of which is normal: listed in torchvision's layout, and decoded once."""

from __future__ import annotations

from pathlib import Path

import torch
from anomalib.data import ImageItem
from anomalib.data.utils import LabelName
from pandas import DataFrame
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

from anomalib_students.data.dataset import ImageFileDataset
from anomalib_students.image_files import read_rgb

__all__ = ["OneClassDataset", "list_samples"]

MEMORY = 2**30
"""Bytes of decoded images that a data set keeps; the others are decoded each time."""


def list_samples(folder: Path, normal_class: str) -> DataFrame:
    """List the images of a folder in the layout of :class:`torchvision.datasets.ImageFolder`.

    Columns are those of anomalib's data sets: ``image_path``, ``label`` (the class), ``label_index`` (0 for the normal
    class, 1 for the others), ``mask_path`` (empty) and ``split`` (the folder's name).

    Raises:
        FileNotFoundError: If the folder is missing, or has no subfolders.
    """
    images = ImageFolder(folder, allow_empty=True)
    classes = [images.classes[target] for target in images.targets]
    samples = DataFrame({"image_path": [path for path, _ in images.samples], "label": classes})
    is_normal = samples["label"] == normal_class
    samples["label_index"] = is_normal.map({True: int(LabelName.NORMAL), False: int(LabelName.ABNORMAL)})
    return samples.assign(mask_path="", split=folder.name)


class OneClassDataset(ImageFileDataset):
    """Labelled images without masks, each decoded once as long as there is memory for it.

    Args:
        samples: Samples of :func:`list_samples`.
    """

    def __init__(self, samples: DataFrame) -> None:
        super().__init__(samples)
        self._decoded: dict[str, torch.Tensor] = {}
        self._free_memory = MEMORY

    def __getitem__(self, index: int) -> ImageItem:
        """Read an image in RGB of shape ``(3, H, W)`` with values in ``[0, 1]``, its label and its path."""
        path, label = self.samples.at[index, "image_path"], self.samples.at[index, "label_index"]
        image = tv_tensors.Image(to_dtype(self._pixels(path), torch.float32, scale=True))
        if self.augmentations:
            image = self.augmentations(image)
        return ImageItem(image=image, gt_label=torch.tensor(label), image_path=path)

    def _pixels(self, path: str) -> torch.Tensor:
        """Pixels of an image in RGB, of shape ``(3, H, W)`` in bytes."""
        if path in self._decoded:
            return self._decoded[path]
        pixels = pil_to_tensor(read_rgb(path))
        if pixels.nbytes <= self._free_memory:
            self._decoded[path] = pixels
            self._free_memory -= pixels.nbytes
        return pixels
