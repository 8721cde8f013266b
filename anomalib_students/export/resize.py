"""Antialiased resizing that can be exported.

Anomalib resizes with antialiasing in training and in its engine, but not in exported models, for which torch has no
such operator. An exported model would see an image that is larger than its input differently, and score it differently.
Here the same resampling is written as two matrix products.
"""

from typing import Any

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

__all__ = ["AntialiasedResize", "antialiased_resize", "exportable_transform"]


def antialiased_resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize images of shape ``(B, C, H, W)`` with a triangular filter as wide as the scale.

    The result is that of torch's antialiased bilinear interpolation.
    """
    rows = _resampling_matrix(images.shape[-2], height, images)
    columns = _resampling_matrix(images.shape[-1], width, images)
    return rows @ images @ columns.T


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


def _resampling_matrix(side: int, new_side: int, like: torch.Tensor) -> torch.Tensor:
    """Weights of the old pixels in each new pixel, of shape ``(new_side, side)``."""
    # In whole numbers, as inferencers that compute in bfloat16 would misplace pixels: it has no odd ones above 256. And
    # as tensors, since exporters can't compute with a side that is known only at run time.
    old = torch.scalar_tensor(side, dtype=torch.int64, device=like.device)
    centres = (2 * torch.arange(new_side, device=like.device) + 1) * old
    pixels = (2 * torch.arange(side, device=like.device) + 1) * new_side
    weights = (2 * old.clamp_min(new_side) - (pixels - centres[:, None]).abs()).clamp_min(0).to(like.dtype)
    return weights / weights.sum(dim=1, keepdim=True)
