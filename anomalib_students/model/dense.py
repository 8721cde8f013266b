"""Dense descriptors: the patch network on every patch of an image at the cost of one pass (Section 3.1).

A patch network with pooling describes only the patches on a coarse grid when it slides over an image. The others are
the same network after a shift of each pooling by one pixel, in each direction. So every pooling splits its input into
2 x 2 phases, which go on as separate images of the batch; when the last layer is done, the phases are interleaved to
the full resolution. The result is exact: no descriptor differs from the one of its patch cropped out alone. The idea
is that of Bailer et al., "Fast Dense Feature Extraction with CNNs that have Pooling or Striding Layers" (BMVC 2017).

Large images are described tile by tile. Each tile brings along the border of ``(p - 1) / 2`` pixels that its patches
reach over, so that the descriptors are those of the whole image.

With an output stride s only every s-th pixel is described, from the same networks: phases that fall between these
pixels are left out, and where the network has too few poolings for s, its last convolution takes larger steps.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from .patch_network import PatchNetwork

__all__ = [
    "OUTPUT_STRIDES",
    "SMALLEST_TILE",
    "DensePlan",
    "Tile",
    "check_max_tile",
    "check_output_stride",
    "dense_descriptors",
    "reflect_pad",
    "sample_phase",
    "split_into_tiles",
    "tiled_descriptors",
]

OUTPUT_STRIDES = (1, 2, 4, 8)
"""Supported distances in pixels between neighbouring descriptors."""
SMALLEST_TILE = 16
"""Least side of a tile in pixels: smaller ones would be nearly all border."""
PHASE_SIDE = 32
"""Patches in each direction that a training step sees. On a fixed budget, many steps on few patches of an image learn
more than few steps on many: they tell the networks less of one image, and more of all."""


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


class _LayerStep(NamedTuple):
    """How the dense network evaluates one layer of the patch network."""

    kernel_size: int
    stride: int
    pool: bool
    split: bool


class DensePlan(NamedTuple):
    """How networks of one architecture describe images of one size, layer by layer.

    It serves networks that have their first layers in common, which then need to be applied only once.

    Attributes:
        steps: How each layer is evaluated.
        rows: Number of described rows.
        columns: Number of described columns.
        border: Width in pixels of the border that the images lack.
    """

    steps: list[_LayerStep]
    rows: int
    columns: int
    border: int

    @classmethod
    def of(cls, network: PatchNetwork, images: torch.Tensor, output_stride: int, padded: bool) -> "DensePlan":
        """Plan how to describe images.

        Args:
            network: Patch network with receptive field p.
            images: Images, see :func:`dense_descriptors`.
            output_stride: Distance s between described pixels, 1, 2, 4 or 8.
            padded: Whether the images have the border of ``(p - 1) / 2`` pixels already.

        Returns:
            The plan.

        Raises:
            ValueError: If ``output_stride`` is not supported.
        """
        check_output_stride(output_stride)
        height, width = images.shape[-2:]
        if padded:
            height, width = height - network.patch_size + 1, width - network.patch_size + 1
        return cls(
            steps=_layer_steps(network, output_stride),
            rows=-(-height // output_stride),
            columns=-(-width // output_stride),
            border=0 if padded else network.patch_size // 2,
        )

    @property
    def n_splits(self) -> int:
        """Number of poolings that split their input into phases."""
        return sum(step.split for step in self.steps)

    def pad(self, images: torch.Tensor) -> torch.Tensor:
        """Pad images so that every phase describes the same number of pixels.

        Args:
            images: Images of shape ``(B, 3, H, W)``.

        Returns:
            Input of the first layer, of shape ``(B, 3, h, w)``. Where the sides do not divide, a few of the described
            pixels are beyond the border.
        """
        return _pad_to(
            images,
            height=_input_side(self.steps, -(-self.rows // 2**self.n_splits)),
            width=_input_side(self.steps, -(-self.columns // 2**self.n_splits)),
            border=self.border,
        )

    def apply(
        self, network: PatchNetwork, features: torch.Tensor, first: int = 0, stop: int | None = None
    ) -> torch.Tensor:
        """Apply layers of a network.

        Args:
            network: Patch network.
            features: Padded images, or what the layers before ``first`` have returned.
            first: First layer to apply.
            stop: First layer not to apply; by default, all are.

        Returns:
            Features of shape ``(n B, C, h, w)``, where n is the number of phases so far.
        """
        for step, module in list(zip(self.steps, network.convolutions, strict=True))[first:stop]:
            convolution = cast("nn.Conv2d", module)
            features = functional.conv2d(features, convolution.weight, convolution.bias, stride=step.stride)
            if convolution is not network.convolutions[-1]:
                features = network.activation(features)
            if step.split:
                features = _pool_every_phase(features)
            elif step.pool:
                features = network.pool(features)
        return features

    def interleave(self, features: torch.Tensor) -> torch.Tensor:
        """Join the phases.

        Args:
            features: What the last layer has returned.

        Returns:
            Descriptors of shape ``(B, d, rows, columns)``.
        """
        for _ in range(self.n_splits):
            features = rearrange(features, "(row column b) d h w -> b d (h row) (w column)", row=2, column=2)
        return features[..., : self.rows, : self.columns]


def check_output_stride(output_stride: int) -> None:
    """Refuse an output stride that is not supported.

    Args:
        output_stride: Distance s in pixels between neighbouring descriptors.

    Raises:
        ValueError: If ``output_stride`` is not one of :data:`OUTPUT_STRIDES`.
    """
    if output_stride not in OUTPUT_STRIDES:
        msg = f"The output stride must be one of {OUTPUT_STRIDES}, got {output_stride}."
        raise ValueError(msg)


def check_max_tile(max_tile: int) -> None:
    """Refuse tiles that are too small.

    Args:
        max_tile: Largest side of a tile in pixels.

    Raises:
        ValueError: If ``max_tile`` is less than :data:`SMALLEST_TILE`.
    """
    if max_tile < SMALLEST_TILE:
        msg = f"max_tile must be at least {SMALLEST_TILE} pixels, got {max_tile}."
        raise ValueError(msg)


def reflect_pad(images: torch.Tensor, left: int, right: int, top: int, bottom: int) -> torch.Tensor:
    """Pad images by reflection about their border pixels, as often as the padding needs it.

    Unlike :func:`torch.nn.functional.pad`, the padding may be larger than the image: a reflection is then itself
    reflected, as in :func:`numpy.pad`.

    Args:
        images: Images of shape ``(B, C, H, W)`` with ``H, W >= 1``.
        left: Columns to add on the left.
        right: Columns to add on the right.
        top: Rows to add at the top.
        bottom: Rows to add at the bottom.

    Returns:
        Images of shape ``(B, C, top + H + bottom, left + W + right)``.
    """
    height, width = images.shape[-2:]
    # Where the sides are symbols of an export, a comparison would limit the sizes that the exported model takes.
    is_static = isinstance(height, int) and isinstance(width, int)
    if is_static and max(left, right) < width and max(top, bottom) < height:
        return functional.pad(images, (left, right, top, bottom), mode="reflect")
    rows = _reflected_indices(height, top, bottom, images.device)
    columns = _reflected_indices(width, left, right, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


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
    plan = DensePlan.of(network, images, output_stride, padded)
    return plan.interleave(plan.apply(network, plan.pad(images)))


def split_into_tiles(images: torch.Tensor, patch_size: int, output_stride: int, max_tile: int) -> Iterator[Tile]:
    """Cut images into tiles, each of which can be described on its own.

    Args:
        images: Images of shape ``(B, 3, H, W)`` with ``H, W >= 1``.
        patch_size: Receptive field p of the network that describes them.
        output_stride: Distance s between described pixels.
        max_tile: Largest side, in pixels, that the descriptors of a tile stand for; at least s.

    Yields:
        Tiles of about the same size, which together make up the map of descriptors, each pixel in one of them; to be
        passed to :func:`dense_descriptors` as padded.
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


def tiled_descriptors(
    network: PatchNetwork, images: torch.Tensor, output_stride: int, max_tile: int
) -> Iterator[torch.Tensor]:
    """Describe images tile by tile, where only the descriptors count, and not their places.

    Args:
        network: Patch network with descriptor dimension d.
        images: Images of shape ``(B, 3, H, W)`` with ``H, W >= 1``.
        output_stride: Distance s between described pixels.
        max_tile: Largest side, in pixels, that the descriptors of a tile stand for; at least s.

    Yields:
        Descriptors of shape ``(n, d)``, which together are those of every s-th pixel.
    """
    for tile in split_into_tiles(images, network.patch_size, output_stride, max_tile):
        yield dense_descriptors(network, tile.images, output_stride, padded=True).movedim(1, -1).flatten(0, -2)


def sample_phase(network: PatchNetwork, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw a random part of all patches of images that one plain pass of the patch network describes.

    Neighbouring patches are nearly the same sample, so a training step need not see them all. It gets those of a
    random tile of the image, and of them one phase of the network's poolings: every ``stride``-th patch in each
    direction from a random offset, up to :data:`PHASE_SIDE` of them. Where tiles and strides divide the sides of the
    image, each patch is as likely as any other, so that the mean of a loss over the part estimates its mean over all
    patches (eq. 7) without bias.

    Args:
        network: Patch network with receptive field p.
        images: Images of shape ``(B, 3, H, W)``.
        generator: Source of random numbers on the CPU, by default torch's own.

    Returns:
        Part of the padded images, of shape ``(B, 3, h, w)`` with ``h, w >= p``, to be passed to ``network`` and to
        others of its architecture.
    """
    border = network.patch_size // 2
    padded = reflect_pad(images, border, border, border, border)
    rows, columns = (_random_phase(side, network.stride, generator) for side in images.shape[-2:])
    return padded[..., rows.start : rows.stop + 2 * border, columns.start : columns.stop + 2 * border]


def _layer_steps(network: PatchNetwork, output_stride: int) -> list[_LayerStep]:
    """Decide for each layer whether its pooling splits into phases, and the stride of its convolution."""
    steps = []
    pooling_stride = 1
    for index, layer in enumerate(network.layers):
        is_last = index == len(network.layers) - 1
        stride = max(1, output_stride // network.stride) if is_last else 1
        steps.append(_LayerStep(layer.kernel_size, stride, layer.pool, layer.pool and pooling_stride >= output_stride))
        pooling_stride *= 2 if layer.pool else 1
    return steps


def _input_side(steps: list[_LayerStep], outputs: int) -> int:
    """Side of the input, in pixels, from which the network computes ``outputs`` descriptors a phase."""
    side = outputs
    for step in reversed(steps):
        if step.pool:
            side = 2 * side + step.split
        side = (side - 1) * step.stride + step.kernel_size
    return side


def _pad_to(images: torch.Tensor, height: int, width: int, border: int) -> torch.Tensor:
    """Pad images by ``border`` on the left and top, and on the right and bottom to the given size."""
    right = width - border - images.shape[-1]
    bottom = height - border - images.shape[-2]
    return reflect_pad(images, border, right, border, bottom)


def _spans(side: int, output_stride: int, max_tile: int) -> Iterator[tuple[int, int]]:
    """Cut a side into spans of pixels, of which all but the last are multiples of the output stride."""
    n_outputs = -(-side // output_stride)
    n_tiles = -(-n_outputs // (max_tile // output_stride))
    span = -(-n_outputs // n_tiles) * output_stride
    for start in range(0, side, span):
        yield start, min(start + span, side)


def _pool_every_phase(features: torch.Tensor) -> torch.Tensor:
    """Pool features of shape ``(B, C, 2h + 1, 2w + 1)`` at each of 2 x 2 offsets to ``(4B, C, h, w)``."""
    # Not by the pooling module, which would copy each of the four shifted maps first.
    larger = torch.maximum(features[..., :-1, :], features[..., 1:, :])
    return torch.cat(
        [
            torch.maximum(larger[..., row::2, column:-1:2], larger[..., row::2, column + 1 :: 2])
            for row in (0, 1)
            for column in (0, 1)
        ]
    )


def _reflected_indices(side: int, before: int, after: int, device: torch.device) -> torch.Tensor:
    """Indices of the pixels of a side that appear in its padded form."""
    # As a tensor, since exporters cannot divide by a side that is known only at run time.
    period = torch.scalar_tensor(max(2 * (side - 1), 1), dtype=torch.int64, device=device)
    offsets = torch.arange(-before, side + after, device=device).remainder(period)
    return torch.minimum(offsets, period - offsets)


def _random_phase(side: int, stride: int, generator: torch.Generator | None) -> range:
    """Draw the span from the first to the last patch of a random phase of a random tile of a side."""
    n_tiles = -(-side // (PHASE_SIDE * stride))
    tile = -(-side // n_tiles)
    # The last tile overlaps the one before it where they do not divide the side.
    start = min(int(torch.randint(n_tiles, (), generator=generator)) * tile, side - tile)
    offset = int(torch.randint(min(stride, tile), (), generator=generator))
    phase = range(start + offset, start + tile, stride)
    return range(phase[0], phase[-1] + 1)
