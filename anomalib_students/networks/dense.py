"""Dense descriptors: the patch network on every patch of an image at the cost of one pass (Section 3.1).

A patch network with pooling describes only the patches on a coarse grid when it slides over an image. The others are
the same network after a shift of each pooling by one pixel, in each direction. So every pooling splits its input into
2 x 2 phases, which the next layers process as separate images of the batch; after the last layer, the phases are
interleaved to the full resolution. The result is exact: no descriptor differs from the one of its patch cropped out.
The idea is that of Bailer et al., "Fast Dense Feature Extraction with CNNs that have Pooling or Striding Layers" (BMVC
2017).

With an output stride s only every s-th pixel is described, from the same networks: phases that fall between these
pixels are left out, and if the network has too few poolings for s, its last convolution takes larger steps.

Large images are cut into tiles. Each brings along the border of ``(p - 1) / 2`` pixels that its patches reach over, so
that its descriptors are those of the whole image.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch.nn import functional

from .patch_network import PatchNetwork

OUTPUT_STRIDES = (1, 2, 4, 8)  # Supported distances in pixels between neighbouring descriptors.
SMALLEST_TILE = 16  # Least side of a tile in pixels: smaller ones would be nearly all border.


def check_dense(output_stride: int, max_tile: int = SMALLEST_TILE) -> None:
    """Raise a ``ValueError`` if an output stride is not one of :data:`OUTPUT_STRIDES`, or tiles are too small."""
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"The output stride must be one of {OUTPUT_STRIDES}, got {output_stride}.")
    if max_tile < SMALLEST_TILE:
        raise ValueError(f"max_tile must be at least {SMALLEST_TILE} pixels, got {max_tile}.")


def dense_descriptors(
    network: PatchNetwork, images: torch.Tensor, output_stride: int = 1, padded: bool = False
) -> torch.Tensor:
    """Describe the patch around every ``output_stride``-th pixel of images.

    The patch of side p around a pixel is cropped from the image padded by ``(p - 1) / 2`` pixels with reflection.

    Args:
        network: Patch network with receptive field p and descriptor dimension d.
        images: Images of shape ``(B, 3, H, W)`` with ``H, W >= 1``; or, if padded, of shape
            ``(B, 3, H + p - 1, W + p - 1)``.
        output_stride: Distance s between described pixels, 1, 2, 4 or 8.
        padded: Whether the images have the border of ``(p - 1) / 2`` pixels already.

    Returns:
        Descriptors of shape ``(B, d, ceil(H / s), ceil(W / s))``; entry ``(i, j)`` describes pixel ``(s i, s j)``.

    Raises:
        ValueError: If ``output_stride`` is not supported.

    Example:
        >>> network = PatchNetwork(patch_size=33)
        >>> dense_descriptors(network, torch.rand(1, 3, 50, 41), output_stride=4).shape
        torch.Size([1, 128, 13, 11])
    """
    check_dense(output_stride)
    tile = images if padded else pad_border(images, network.patch_size)
    phases = network(fill_phases(network, tile, output_stride), output_stride)
    return join_phases(network, phases, output_stride, tile.shape[-2:])


def cut_tiles(
    images: torch.Tensor, patch_size: int, output_stride: int, max_tile: int | None = None
) -> list[list[torch.Tensor]]:
    """Pad images by reflection and cut them into rows of tiles.

    Args:
        images: Images of shape ``(B, 3, H, W)``.
        patch_size: Side p of the patches.
        output_stride: Distance s between described pixels. Sides of tiles are multiples of it, but for the last.
        max_tile: Largest side of a tile in pixels; by default, and in exported models, there is a single tile.

    Returns:
        Rows of tiles of shape ``(B, 3, h + p - 1, w + p - 1)``, whose descriptors make up those of the images.
    """
    border = patch_size // 2
    padded = pad_border(images, patch_size)
    rows, columns = (_spans(side, output_stride, max_tile) for side in images.shape[-2:])
    return [
        [padded[..., top : bottom + 2 * border, left : right + 2 * border] for left, right in columns]
        for top, bottom in rows
    ]


def fill_phases(network: PatchNetwork, tile: torch.Tensor, output_stride: int) -> torch.Tensor:
    """Extend a tile at the bottom and on the right so that all phases describe the same number of pixels."""
    rows, columns = _grid(tile.shape[-2:], network.patch_size, output_stride)
    bottom, right = (
        network.input_side(n_described, output_stride) - side
        for n_described, side in zip((rows, columns), tile.shape[-2:], strict=True)
    )
    return reflect_pad(tile, 0, right, 0, bottom)


def join_phases(
    network: PatchNetwork, phases: torch.Tensor, output_stride: int, tile_size: Sequence[int]
) -> torch.Tensor:
    """Interleave the phases of ``(..., n B, d, h, w)`` to ``(..., B, d, rows, columns)``, what describes the tile."""
    for _ in range(network.splits(output_stride)):
        phases = rearrange(phases, "... (row column b) d h w -> ... b d (h row) (w column)", row=2, column=2)
    rows, columns = _grid(tile_size, network.patch_size, output_stride)
    return phases[..., :rows, :columns]


def pad_border(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Pad images by reflection with what the patches of side p around their outermost pixels reach over."""
    border = patch_size // 2
    return reflect_pad(images, border, border, border, border)


def reflect_pad(images: torch.Tensor, left: int, right: int, top: int, bottom: int) -> torch.Tensor:
    """Pad images by reflection about their border pixels, as often as the padding needs it.

    Unlike :func:`torch.nn.functional.pad`, the padding may be larger than the image: a reflection is then itself
    reflected, as in :func:`numpy.pad`.

    Images have the shape ``(B, C, H, W)`` with ``H, W >= 1``, and then ``(B, C, top + H + bottom, left + W + right)``.
    """
    height, width = images.shape[-2:]
    # If the sides are symbols of an export, a comparison would limit the sizes that the exported model takes.
    is_static = isinstance(height, int) and isinstance(width, int)
    if is_static and not (left or right or top or bottom):
        return images
    if is_static and max(left, right) < width and max(top, bottom) < height:
        return functional.pad(images, (left, right, top, bottom), mode="reflect")
    rows = _reflected_indices(height, top, bottom, images.device)
    columns = _reflected_indices(width, left, right, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def _grid(tile_size: Sequence[int], patch_size: int, output_stride: int) -> list[int]:
    """Rows and columns of described pixels of a tile with border."""
    return [_quotient(side - patch_size + 1, output_stride) for side in tile_size]


def _spans(side: int, output_stride: int, max_tile: int | None) -> list[tuple[int, int]]:
    """Cut a side into spans of about the same size, of which all but the last are multiples of the stride."""
    if max_tile is None or torch.compiler.is_exporting():
        return [(0, side)]
    n_described = _quotient(side, output_stride)
    n_tiles = _quotient(n_described, max_tile // output_stride)
    span = _quotient(n_described, n_tiles) * output_stride
    return [(start, min(start + span, side)) for start in range(0, side, span)]


def _quotient(side: int, divisor: int) -> int:
    """Quotient, rounded up."""
    # Not -(-side // divisor): exported models round the quotient of a negative number towards zero.
    return (side + divisor - 1) // divisor


def _reflected_indices(side: int, before: int, after: int, device: torch.device) -> torch.Tensor:
    """Indices of the pixels of a side that appear in its padded form."""
    # As a tensor, since exporters cannot divide by a side that is known only at run time.
    period = torch.scalar_tensor(max(2 * (side - 1), 1), dtype=torch.int64, device=device)
    offsets = torch.arange(-before, side + after, device=device).remainder(period)
    return torch.minimum(offsets, period - offsets)
