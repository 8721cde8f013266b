"""Images that are one patch as a whole, for one-class classification (Section 4.1)."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch

from anomalib_students.export.resize import antialiased_resize

from .dense import tiled_descriptors
from .patch_network import PatchNetwork

__all__ = ["Mode", "check_mode", "teacher_descriptors", "zoom"]

Mode = Literal["pixel", "patch"]
"""What is scored: every pixel of an image, or the image as a whole, which then is one patch (Section 4.1)."""


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist.

    Args:
        mode: What is scored.

    Raises:
        ValueError: If ``mode`` is not one of :data:`Mode`.
    """
    if mode not in get_args(Mode):
        msg = f"mode must be one of {get_args(Mode)}, got {mode!r}."
        raise ValueError(msg)


def zoom(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Zoom images to the side of a patch (Section 4.1).

    Args:
        images: Images of shape ``(B, 3, H, W)``.
        patch_size: Side p of the patch in pixels.

    Returns:
        Images of shape ``(B, 3, p, p)``.

    Example:
        >>> zoom(torch.rand(2, 3, 28, 28), 33).shape
        torch.Size([2, 3, 33, 33])
    """
    # Where the sides are symbols of an export, a comparison would limit the sizes that the exported model takes.
    is_zoomed = all(isinstance(length, int) and length == patch_size for length in images.shape[-2:])
    return images if is_zoomed else antialiased_resize(images, patch_size, patch_size)


def teacher_descriptors(
    teacher: PatchNetwork, images: torch.Tensor, output_stride: int | None, max_tile: int
) -> Iterator[torch.Tensor]:
    """Describe images with the teacher, without normalisation, where the places of the descriptors do not count.

    Args:
        teacher: Teacher with receptive field p and descriptor dimension d.
        images: Images of shape ``(B, 3, H, W)``.
        output_stride: Distance s between described pixels; None to describe each image as one patch.
        max_tile: Largest side in pixels that is described at once, to bound the memory.

    Yields:
        Descriptors of shape ``(n, d)``, which together are those of all pixels or patches.
    """
    if output_stride is None:
        yield teacher(zoom(images, teacher.patch_size)).flatten(1)
    else:
        yield from tiled_descriptors(teacher, images, output_stride, max_tile)
