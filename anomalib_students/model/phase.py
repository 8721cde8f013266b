"""Random parts of images that training steps see."""

from math import prod

import torch

from anomalib_students.networks.dense import reflect_pad
from anomalib_students.networks.patch_network import PatchNetwork

__all__ = ["sample_phase"]

PHASE_SIDE = 32
"""Patches in each direction that a training step sees. On a fixed budget, many steps on few patches of an image learn
more than few steps on many."""
SPREAD_SIDE = 8
"""Patches in each direction that a network without poolings sees in one place."""


def sample_phase(network: PatchNetwork, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw a random part of all patches of images that one plain pass of the patch network describes.

    Neighbouring patches are nearly the same sample, so a training step need not see them all. It gets those of a
    random tile of the image, and of them one phase of the network's poolings: every ``stride``-th patch in each
    direction from a random offset, up to :data:`PHASE_SIDE` of them. If tiles and strides divide the sides of the
    image, each patch is as likely as any other, so that the mean of a loss over the part estimates its mean over all
    patches (eq. 7) without bias.

    Without poolings, the patches of a tile are those of neighbouring pixels. So they are drawn from several tiles, of
    up to :data:`SPREAD_SIDE` patches in each direction.

    Returns:
        Parts of the padded images, of shape ``(n B, 3, h, w)`` with ``h, w >= p``, for ``network`` and others of its
        architecture; those of n tiles one after the other.
    """
    border = network.patch_size // 2
    padded = reflect_pad(images, border, border, border, border)
    tile_side = min(PHASE_SIDE, SPREAD_SIDE) if network.stride == 1 else PHASE_SIDE
    n_tiles = [-(-side // (tile_side * network.stride)) for side in images.shape[-2:]]
    parts = []
    for _ in range(min(prod(n_tiles), (PHASE_SIDE // tile_side) ** 2)):
        rows, columns = (
            _random_phase(side, number, network.stride, generator)
            for side, number in zip(images.shape[-2:], n_tiles, strict=True)
        )
        parts.append(padded[..., rows.start : rows.stop + 2 * border, columns.start : columns.stop + 2 * border])
    return torch.cat(parts)


def _random_phase(side: int, n_tiles: int, stride: int, generator: torch.Generator | None) -> range:
    """Draw the span from the first to the last patch of a random phase of one of ``n_tiles`` tiles of a side."""
    tile = -(-side // n_tiles)
    # The last tile overlaps the one before it if they do not divide the side.
    start = min(int(torch.randint(n_tiles, (), generator=generator)) * tile, side - tile)
    offset = int(torch.randint(min(stride, tile), (), generator=generator))
    phase = range(start + offset, start + tile, stride)
    return range(phase[0], phase[-1] + 1)
