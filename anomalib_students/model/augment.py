"""What training steps see: random patches of the images, in random light, with synthetic defects."""

from math import prod
from typing import Literal

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional

from anomalib_students.networks.dense import pad_border
from anomalib_students.networks.patch_network import PatchNetwork

__all__ = ["TrainingMode", "jitter_light", "paint_defects", "sample_phase", "training_tiles"]

TrainingMode = Literal["phase", "dense"]
"""Which pixels a training step describes: a random sample of them, or all."""

PHASE_SIDE = 32
"""Patches in each direction that a training step sees. On a fixed budget, many steps on few patches of an image learn
more than few steps on many."""
SPREAD_SIDE = 8
"""Patches in each direction that a network without poolings sees in one place."""

GAIN = 0.15
"""Largest relative change of the contrast."""
OFFSET = 0.5
"""Largest change of the brightness, in standard deviations of ImageNet's pixels (about 0.11 of the range 0 to 1)."""
COLOUR = 0.05
"""Largest change of the brightness of a single channel, in the same unit."""
EXPOSURE = 0.25
"""Largest relative change of the exposure, which multiplies what the camera records."""
NOISE = 0.04
"""Largest standard deviation of the noise that is added to pixels, in the same unit."""
BLACK = -torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1) / torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
"""Normalised pixels without light."""
WHITE = BLACK + 1 / torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
"""Normalised pixels that are saturated."""

LARGEST_COVER = 0.15
"""Largest fraction of an image that blobs cover."""
LARGEST_WIDTH = 0.08
"""Largest width of lines, as the height of the field that they are contours of."""
LEAST_OPACITY = 0.15
"""Opacity of the faintest defects."""


# A compiled model draws the same random numbers in the same order: drawing is left to Python.
@torch.compiler.disable
def training_tiles(
    network: PatchNetwork,
    images: torch.Tensor,
    training_mode: TrainingMode,
    defects: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """Draw what a training step describes.

    Args:
        network: Patch network, or one of several of the same architecture.
        images: Normalised images of shape ``(B, 3, H, W)``.
        training_mode: ``"dense"`` for every pixel of the images, ``"phase"`` for those of :func:`sample_phase`.
        defects: Fraction of the tiles that are painted on, see :func:`paint_defects`.
        generator: Source of random numbers, by default torch's own.

    Returns:
        Tiles with their border, for the teacher; the same with synthetic defects, for the students, or None if there
        are none; and the fraction of the tiles that have some.
    """
    if training_mode == "phase":
        images = sample_phase(network, images, generator)
    painted = paint_defects(images, defects, generator)
    n_painted = int((painted != images).flatten(1).any(dim=1).sum())
    if training_mode == "dense":
        images, painted = pad_border(images, network.patch_size), pad_border(painted, network.patch_size)
    return images, painted if n_painted else None, n_painted / len(images)


def sample_phase(network: PatchNetwork, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw a random sample of all patches of images that one plain pass of the patch network describes.

    Neighbouring patches are nearly alike, so a training step need not see them all. It gets those of a random tile of
    the image, and of them one phase of the network's poolings: every ``stride``-th patch in each direction from a
    random offset, up to :data:`PHASE_SIDE` of them. If tiles and strides divide the sides of the image, each patch is
    as likely as any other, so that the mean of a loss over the sample estimates its mean over all patches (eq. 7)
    without bias.

    Without poolings, the patches of a tile are those of neighbouring pixels. So they are drawn from several tiles, of
    up to :data:`SPREAD_SIDE` patches in each direction.

    Returns:
        Crops of the padded images, of shape ``(n B, 3, h, w)`` with ``h, w >= p``, for ``network`` and others of its
        architecture; those of n tiles one after the other.
    """
    border = network.patch_size // 2
    padded = pad_border(images, network.patch_size)
    tile_side = min(PHASE_SIDE, SPREAD_SIDE) if network.stride == 1 else PHASE_SIDE
    n_tiles = [-(-side // (tile_side * network.stride)) for side in images.shape[-2:]]
    crops = []
    for _ in range(min(prod(n_tiles), (PHASE_SIDE // tile_side) ** 2)):
        rows, columns = (
            _random_phase(side, number, network.stride, generator)
            for side, number in zip(images.shape[-2:], n_tiles, strict=True)
        )
        crops.append(padded[..., rows.start : rows.stop + 2 * border, columns.start : columns.stop + 2 * border])
    return torch.cat(crops)


def _random_phase(side: int, n_tiles: int, stride: int, generator: torch.Generator | None) -> range:
    """Draw the span from the first to the last patch of a random phase of one of ``n_tiles`` tiles of a side."""
    tile = -(-side // n_tiles)
    # The last tile overlaps the one before it if they do not divide the side.
    start = min(int(torch.randint(n_tiles, (), generator=generator)) * tile, side - tile)
    offset = int(torch.randint(min(stride, tile), (), generator=generator))
    phase = range(start + offset, start + tile, stride)
    return range(phase[0], phase[-1] + 1)


@torch.compiler.disable
def jitter_light(images: torch.Tensor, strength: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Change contrast, brightness, colour and exposure of images at random, and add noise.

    Teacher and students see the same changed images, so the students learn to follow the teacher in any light. As in a
    camera, pixels saturate at white: highlights lose their shape in brighter light.

    Args:
        images: Images of shape ``(B, 3, H, W)``, normalised as for ImageNet. Each is changed in its own way.
        strength: Factor of all ranges, at least 0; 1 for changes of up to 15 % in contrast, 11 % in brightness and 25 %
            in exposure.
        generator: Source of random numbers on the CPU, by default torch's own.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> jitter_light(images, strength=1.0).shape
        torch.Size([2, 3, 8, 8])
        >>> torch.equal(jitter_light(images, strength=0.0), images)
        True
    """
    if strength == 0:
        return images
    n_images, n_channels = images.shape[:2]

    def uniform(largest: float, channels: int = 1) -> torch.Tensor:
        numbers = 2 * torch.rand(n_images, channels, 1, 1, generator=generator) - 1
        return (strength * largest * numbers).to(images)

    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    gain, offset, colour = 1 + uniform(GAIN), uniform(OFFSET), uniform(COLOUR, n_channels)
    noise = torch.randn(images.shape, generator=generator).to(images) * uniform(NOISE)
    exposure = 1 + uniform(EXPOSURE)
    black, white = BLACK.to(images), WHITE.to(images)
    lit = (images - mean) * gain + mean + offset + colour
    return ((lit - black) * exposure + black + noise).clamp(black, white)


def paint_defects(images: torch.Tensor, fraction: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Paint blobs and lines on some of the training images, of other colours, textures or places of the image.

    The teacher describes the image itself and the students the painted one, as in Zhang et al., "DeSTSeg: Segmentation
    Guided Denoising Student-Teacher for Anomaly Detection" (CVPR 2023). Asked for what the teacher sees without the
    defect, students learn to describe good images, rather than to imitate the teacher on defects too.

    Args:
        images: Images of shape ``(B, 3, H, W)``.
        fraction: Fraction of the images that are painted on, in ``[0, 1]``.
        generator: Source of random numbers on the CPU, by default torch's own.

    Returns:
        Images of the same shape; the images themselves if none is painted on.

    Example:
        >>> images = torch.rand(2, 3, 64, 64)
        >>> paint_defects(images, fraction=1.0).shape
        torch.Size([2, 3, 64, 64])
        >>> paint_defects(images, fraction=0.0) is images
        True
    """
    if fraction == 0:
        return images
    chosen = torch.rand(len(images), generator=generator) < fraction
    if not chosen.any():
        return images
    pairs = zip(images, chosen, strict=True)
    return torch.stack([_paint(image, generator) if is_chosen else image for image, is_chosen in pairs])


def _paint(image: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Paint one kind of defect on an image of shape ``(3, H, W)``."""
    size = image.shape[1:]
    is_blob = _uniform(0, 1, generator) < 0.5
    shape = (_blobs(size, generator) if is_blob else _lines(size, generator)).to(image.device)
    opacity = (_uniform(LEAST_OPACITY, 1, generator) * shape).to(image)
    return image + opacity * (_paint_of(image, generator) - image)


def _blobs(size: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    """Where a smooth random field is largest: a few large spots, or many small ones."""
    field = _field(_integer(3, max(4, min(size) // 10), generator), size, generator)
    covered = _uniform(0.01, LARGEST_COVER, generator)
    return field > field.flatten().kthvalue(max(1, int((1 - covered) * field.numel()))).values


def _lines(size: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    """Pieces of the contours of a smooth random field."""
    contours = _field(_integer(2, 6, generator), size, generator).abs()
    pieces = _field(_integer(2, 8, generator), size, generator) > _uniform(0, 1, generator)
    return (contours < _uniform(0.01, LARGEST_WIDTH, generator)) & pieces


def _paint_of(image: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Choose what to paint with: another place of the image in another tint, a plain colour, or a smooth texture."""
    height, width = image.shape[1:]
    tint = torch.randn(3, 1, 1, generator=generator).to(image)
    match _integer(0, 3, generator):
        case 0:
            shifts = tuple(_integer(side // 16, side - side // 16, generator) for side in (height, width))
            return torch.roll(image, shifts, dims=(1, 2)) + 0.5 * tint
        case 1:
            noise = torch.randn(image.shape, generator=generator).to(image)
            return image.mean(dim=(1, 2), keepdim=True) + 1.2 * tint + 0.1 * noise
    texture = _field(_integer(4, max(5, min(height, width) // 2), generator), image.shape[1:], generator).to(image)
    return tint + _uniform(0.2, 1, generator) * texture


def _field(cells: int, size: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    """Smooth random field of shape ``(1, H, W)``: normal random numbers on a grid, interpolated."""
    grid = torch.randn(1, 1, cells, cells, generator=generator)
    return functional.interpolate(grid, tuple(size), mode="bicubic", align_corners=False)[0]


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high, (), generator=generator))
