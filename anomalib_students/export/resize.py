"""Exported models that resize with antialiasing.

Anomalib resizes with antialiasing in training and in its engine, but not in exported models, for which torch has no
such operator. An exported model would see an image that is larger than its input differently, and score it differently.
"""

from typing import Any

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_students.networks.resize import antialiased_resize

__all__ = ["AntialiasedResize", "exportable_transform"]


class AntialiasedResize(Transform):
    """Transform that resizes batches of images with :func:`antialiased_resize`."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Resize images of shape ``(B, C, H, W)``."""
        return antialiased_resize(inpt, self.height, self.width)


def exportable_transform(transform: Transform | None) -> Transform | None:
    """Make a transform exportable as anomalib does, but keep its antialiasing."""
    exportable = get_exportable_transform(transform)
    if isinstance(transform, Compose) and isinstance(exportable, Compose):
        pairs = zip(transform.transforms, exportable.transforms, strict=True)
        return Compose([_antialiased(original, replacement) for original, replacement in pairs])
    return _antialiased(transform, exportable)


def _antialiased(original: Transform | None, exportable: Transform | None) -> Transform | None:
    if not isinstance(original, Resize):
        return exportable
    is_antialiased = (
        original.antialias
        and InterpolationMode(original.interpolation) is InterpolationMode.BILINEAR
        # A single number stands for the shorter side, and leaves the other to the image.
        and isinstance(original.size, list | tuple)
        and len(original.size) == 2
    )
    return AntialiasedResize(*original.size) if is_antialiased else exportable
