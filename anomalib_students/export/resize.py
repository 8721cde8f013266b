"""Exported models that resize with antialiasing.

Anomalib resizes with antialiasing in training and in its engine, but not in exported models, for which torch has no
such operator. An exported model would see an image that is larger than its input differently, and score it differently.
"""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_students.networks.resize import antialiased_resize

__all__ = ["AntialiasedResize", "exportable_transform"]


class AntialiasedResize(Transform):
    """Transform that resizes batches of images with :func:`antialiased_resize`.

    Args:
        size: Height and width, or the shorter side, for which the images keep their ratio, as in torchvision's
            ``Resize``.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Resize images of shape ``(B, C, H, W)``."""
        sides = inpt.shape[-2:]
        if len(self.size) == 1:
            # Without a comparison, which an export would take for a limit of the sizes.
            shorter = torch.sym_min(*sides)
            return antialiased_resize(inpt, *(self.size[0] * side // shorter for side in sides))
        return antialiased_resize(inpt, *self.size)


def exportable_transform(transform: Transform | None) -> Transform | None:
    """Make a transform exportable as anomalib does, but keep its antialiasing."""
    if isinstance(transform, Compose):
        return Compose([exportable_transform(each) for each in transform.transforms])
    is_antialiased = (
        isinstance(transform, Resize)
        and transform.antialias
        and InterpolationMode(transform.interpolation) is InterpolationMode.BILINEAR
        and transform.size is not None
        and transform.max_size is None
    )
    return AntialiasedResize(transform.size) if is_antialiased else get_exportable_transform(transform)
