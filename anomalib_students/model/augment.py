"""What training steps see: random patches of the images, in random light, with synthetic defects."""

from math import prod
from typing import Literal

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional

from anomalib_students.networks.dense import pad_border
from anomalib_students.networks.patch_network import PatchNetwork

TrainingMode = Literal["phase", "dense"]
"""Which pixels a training step describes: a random sample of them, or all."""

PHASE_SIDE = 32
"""Patches in each direction that a training step sees: in the same time, many steps on few patches learn more."""
SPREAD_SIDE = 8  # Patches in each direction that a network without poolings sees in one place.

# Largest changes of the light, some in standard deviations of ImageNet's pixels (about 0.22 of the range 0 to 1).
GAIN = 0.15  # Of the contrast, relative.
OFFSET = 0.5  # Of the brightness, in standard deviations.
COLOUR = 0.05  # Of the brightness of one channel, in standard deviations.
EXPOSURE = 0.25  # Of what the camera records, relative.
NOISE = 0.04  # Standard deviation of what is added to pixels, in standard deviations.
BLACK = -torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1) / torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
"""Normalised pixels without light."""
WHITE = BLACK + 1 / torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)  # Normalised pixels that are saturated.

LARGEST_COVER = 0.15  # Fraction of an image that blobs cover.
LARGEST_WIDTH = 0.08  # Of lines, as the height of the field that they are contours of.
LEAST_OPACITY = 0.15  # Of the faintest defects.


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
        generator: Source of random numbers on the CPU, by default torch's own.

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
    random offset, up to :data:`PHASE_SIDE` of them. Without poolings, these would be neighbours, and so are drawn from
    several tiles, of up to :data:`SPREAD_SIDE` patches in each direction. If tiles and strides divide the sides of the
    image, each patch is as likely as any other: the mean of a loss over the sample is an unbiased estimate of eq. 7.

    Returns:
        Crops of the padded images, of shape ``(n B, 3, h, w)`` with ``h, w >= p``, for ``network`` and others of its
        architecture; those of n tiles one after the other.
    """
    padded = pad_border(images, network.patch_size)
    tile_side = min(PHASE_SIDE, SPREAD_SIDE) if network.stride == 1 else PHASE_SIDE
    sides = [(side, -(-side // (tile_side * network.stride))) for side in images.shape[-2:]]
    n_crops = min(prod(n_tiles for _, n_tiles in sides), (PHASE_SIDE // tile_side) ** 2)
    spans = [[_random_phase(network, *side, generator) for side in sides] for _ in range(n_crops)]
    return torch.cat([padded[..., rows, columns] for rows, columns in spans])


def _random_phase(network: PatchNetwork, side: int, n_tiles: int, generator: torch.Generator | None) -> slice:
    """Draw the pixels of the patches of a random phase of one of ``n_tiles`` tiles of a padded side."""
    tile = -(-side // n_tiles)
    # The last tile overlaps the one before it if they do not divide the side.
    start = min(_integer(0, n_tiles, generator) * tile, side - tile)
    first = start + _integer(0, min(network.stride, tile), generator)
    last = range(first, start + tile, network.stride)[-1]
    return slice(first, last + network.patch_size)


@torch.compiler.disable
def jitter_light(images: torch.Tensor, strength: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Change contrast, brightness, colour and exposure of images at random, and add noise.

    Teacher and students see the same changed images, so that the students learn to follow the teacher in any light. As
    in a camera, pixels saturate at white.

    Args:
        images: Images of shape ``(B, 3, H, W)``, normalised as for ImageNet. Each is changed in its own way.
        strength: Factor of all ranges, at least 0.
        generator: Source of random numbers on the CPU, by default torch's own.
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
    Guided Denoising Student-Teacher for Anomaly Detection" (CVPR 2023): students do not learn to imitate it on defects.

    Args:
        images: Images of shape ``(B, 3, H, W)``.
        fraction: Fraction of the images that are painted on, in ``[0, 1]``.
        generator: Source of random numbers on the CPU, by default torch's own.
    """
    if fraction == 0:
        return images
    chosen = torch.rand(len(images), generator=generator) < fraction
    pairs = zip(images, chosen, strict=True)
    return torch.stack([_paint(image, generator) if is_chosen else image for image, is_chosen in pairs])


def _paint(image: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Paint one kind of defect on an image of shape ``(3, H, W)``."""
    draw_shape = _blobs if _uniform(0, 1, generator) < 0.5 else _lines
    shape = draw_shape(image.shape[1:], generator)
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
    size = image.shape[1:]
    tint = torch.randn(3, 1, 1, generator=generator).to(image)
    match _integer(0, 3, generator):
        case 0:
            shifts = tuple(_integer(side // 16, side - side // 16, generator) for side in size)
            return torch.roll(image, shifts, dims=(1, 2)) + 0.5 * tint
        case 1:
            noise = torch.randn(image.shape, generator=generator).to(image)
            return image.mean(dim=(1, 2), keepdim=True) + 1.2 * tint + 0.1 * noise
    texture = _field(_integer(4, max(5, min(size) // 2), generator), size, generator).to(image)
    return tint + _uniform(0.2, 1, generator) * texture


def _field(cells: int, size: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    """Smooth random field of shape ``(1, H, W)``: normal random numbers on a grid, interpolated."""
    grid = torch.randn(1, 1, cells, cells, generator=generator)
    return functional.interpolate(grid, tuple(size), mode="bicubic", align_corners=False)[0]


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high, (), generator=generator))
