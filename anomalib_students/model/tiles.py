"""Parts of large images that are described one after the other, so that the memory is bounded."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from .dense import reflect_pad

__all__ = ["SMALLEST_TILE", "Tile", "check_max_tile", "split_into_tiles"]

SMALLEST_TILE = 16
"""Least side of a tile in pixels: smaller ones would be nearly all border."""


class Tile(NamedTuple):
    """A part of the images whose descriptors are computed together.

    Attributes:
        rows: Rows of the descriptors in the map of the whole image.
        columns: Columns of them.
        images: The pixels that their patches cover, of shape ``(B, 3, h, w)``.
    """

    rows: slice
    columns: slice
    images: torch.Tensor


def check_max_tile(max_tile: int) -> None:
    """Raise an error if tiles are too small.

    Args:
        max_tile: Largest side of a tile in pixels.

    Raises:
        ValueError: If ``max_tile`` is less than :data:`SMALLEST_TILE`.
    """
    if max_tile < SMALLEST_TILE:
        msg = f"max_tile must be at least {SMALLEST_TILE} pixels, got {max_tile}."
        raise ValueError(msg)


def split_into_tiles(images: torch.Tensor, patch_size: int, output_stride: int, max_tile: int) -> Iterator[Tile]:
    """Cut images into tiles, each of which can be described on its own.

    Each tile brings along the border of ``(p - 1) / 2`` pixels that its patches reach over, so that the descriptors are
    those of the whole image.

    Args:
        images: Images of shape ``(B, 3, H, W)`` with ``H, W >= 1``.
        patch_size: Receptive field p of the network that describes them.
        output_stride: Distance s between described pixels.
        max_tile: Largest side, in pixels, that the descriptors of a tile stand for; at least s.

    Yields:
        Tiles of about the same size, which together make up the map of descriptors, each pixel in one of them; to be
        passed to :func:`~anomalib_students.model.dense.dense_patches` as padded.
    """
    border = patch_size // 2
    height, width = images.shape[-2:]
    padded = reflect_pad(images, border, border, border, border)
    for top, bottom in _spans(height, output_stride, max_tile):
        for left, right in _spans(width, output_stride, max_tile):
            yield Tile(
                slice(top // output_stride, -(-bottom // output_stride)),
                slice(left // output_stride, -(-right // output_stride)),
                padded[..., top : bottom + 2 * border, left : right + 2 * border],
            )


def _spans(side: int, output_stride: int, max_tile: int) -> Iterator[tuple[int, int]]:
    """Cut a side into spans of pixels, of which all but the last are multiples of the output stride."""
    n_outputs = -(-side // output_stride)
    n_tiles = -(-n_outputs // (max_tile // output_stride))
    span = -(-n_outputs // n_tiles) * output_stride
    for start in range(0, side, span):
        yield start, min(start + span, side)
