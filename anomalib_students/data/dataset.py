"""A data set of anomalib's whose image files are read by this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import LabelName
from pandas import DataFrame
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

from anomalib_students.image_files import allow_pixels, open_image, read_rgb


@dataclass
class _Item(ImageItem):
    """Image whose path may be in any script; anomalib's takes printable ASCII only."""

    validate_image_path = validate_mask_path = staticmethod(lambda path: path)  # type: ignore[assignment]


@dataclass
class _Batch(ImageBatch):
    item_class: ClassVar[type[ImageItem]] = _Item


class ImageFileDataset(AnomalibDataset):
    """Labelled images and masks, read by :func:`~anomalib_students.image_files.open_image`.

    Args:
        samples: Table with the columns ``image_path``, ``label`` (the kind), ``label_index`` (0 good, 1 anomalous, -1
            unknown), ``mask_path`` (empty for none) and ``split``.
        has_masks: Whether there is a mask for every anomalous image.
        max_pixels: Largest number of pixels of an image; None for Pillow's limit.
    """

    def __init__(self, samples: DataFrame, has_masks: bool = False, max_pixels: int | None = None) -> None:
        super().__init__()
        samples.attrs["task"] = (TaskType.SEGMENTATION if has_masks else TaskType.CLASSIFICATION).value
        self.samples = samples
        self.max_pixels = max_pixels

    def __getitem__(self, index: int) -> ImageItem:
        """Read an image in RGB of shape ``(3, H, W)`` with values in ``[0, 1]``, its mask, label and paths."""
        # Workers that load images are processes of their own.
        allow_pixels(self.max_pixels)
        sample = self.samples.iloc[index]
        image = tv_tensors.Image(to_dtype(pil_to_tensor(read_rgb(sample.image_path)), torch.float32, scale=True))
        mask = None
        if self.task == TaskType.SEGMENTATION and sample.label_index != LabelName.UNKNOWN:
            marked = torch.zeros(image.shape[-2:])
            if sample.mask_path:
                marked = pil_to_tensor(open_image(sample.mask_path).convert("L"))[0] > 0
            mask = tv_tensors.Mask(marked, dtype=torch.uint8)
        if self.augmentations:
            image, mask = self.augmentations(image, mask) if mask is not None else (self.augmentations(image), None)
        label = None if sample.label_index == LabelName.UNKNOWN else torch.tensor(sample.label_index)
        return _Item(
            image=image, gt_mask=mask, gt_label=label, image_path=sample.image_path, mask_path=sample.mask_path
        )

    @property
    def collate_fn(self) -> Callable:
        """Function that makes a batch of images."""
        return _Batch.collate
