"""Dense descriptors: the patch network on every patch of an image at the cost of one pass (Section 3.1).

A patch network with pooling describes only the patches on a coarse grid when it slides over an image. The others are
the same network after a shift of each pooling by one pixel, in each direction. So every pooling splits its input into
2 x 2 phases, which the next layers process as separate images of the batch; after the last layer, the phases are
interleaved to the full resolution. The result is exact: no descriptor differs from the one of its patch cropped out
alone. The idea is that of Bailer et al., "Fast Dense Feature Extraction with CNNs that have Pooling or Striding Layers"
(BMVC 2017).

With an output stride s only every s-th pixel is described, from the same networks: phases that fall between these
pixels are left out, and if the network has too few poolings for s, its last convolution takes larger steps.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch.nn import functional

from .patch_network import LayerStep, PatchNetwork

__all__ = [
    "OUTPUT_STRIDES",
    "Patches",
    "check_output_stride",
    "dense_descriptors",
    "dense_patches",
    "reflect_pad",
]

OUTPUT_STRIDES = (1, 2, 4, 8)
"""Supported distances in pixels between neighbouring descriptors."""


class Patches(NamedTuple):
    """Patches of images that one pass describes, of one network or of several of its architecture.

    Attributes:
        features: Input of the layer ``first``: images of shape ``(B, 3, h, w)``, or what the layers before return.
        output_stride: Distance in pixels between the patches; by default, that of a plain pass.
        images: Which images of a batch they are of.
        rows: Which rows of the map of descriptors they make up.
        columns: Which columns.
        first: First layer that is still to be applied.

    Example:
        >>> network = PatchNetwork(patch_size=33)
        >>> Patches(torch.rand(2, 3, 33, 33)).describe(network).shape
        torch.Size([2, 128, 1, 1])
    """

    features: torch.Tensor
    output_stride: int | None = None
    images: slice = slice(None)
    rows: slice = slice(None)
    columns: slice = slice(None)
    first: int = 0

    def through(self, network: PatchNetwork, stop: int) -> "Patches":
        """Apply the layers before ``stop``, which several networks have in common."""
        return self._replace(features=network(self.features, self.output_stride, self.first, stop), first=stop)

    def describe(self, network: PatchNetwork) -> torch.Tensor:
        """Apply the layers from ``first`` on, and return descriptors of shape ``(B, d, rows, columns)``."""
        features = network(self.features, self.output_stride, self.first)
        if self.output_stride is None:
            return features
        for _ in range(sum(step.split for step in network.steps(self.output_stride))):
            features = rearrange(features, "(row column b) d h w -> b d (h row) (w column)", row=2, column=2)
        return features[..., : self.rows.stop - self.rows.start, : self.columns.stop - self.columns.start]


def dense_patches(network: PatchNetwork, images: torch.Tensor, output_stride: int = 1, padded: bool = False) -> Patches:
    """Pad images so that one pass describes the patch around every ``output_stride``-th pixel.

    Args:
        network: Patch network with receptive field p, or one of several of the same architecture.
        images: Images of shape ``(B, 3, H, W)`` with ``H, W >= 1``; or, if padded, of shape
            ``(B, 3, H + p - 1, W + p - 1)``.
        output_stride: Distance s between described pixels, 1, 2, 4 or 8.
        padded: Whether the images have the border of ``(p - 1) / 2`` pixels already.

    Returns:
        Patches in ``ceil(H / s)`` rows and ``ceil(W / s)`` columns.

    Raises:
        ValueError: If ``output_stride`` is not supported.
    """
    check_output_stride(output_stride)
    height, width = images.shape[-2:]
    border, beyond = (0, network.patch_size - 1) if padded else (network.patch_size // 2, 0)
    rows, columns = (_quotient(side - beyond, output_stride) for side in (height, width))
    steps = network.steps(output_stride)
    # Every phase describes the same number of pixels. If the sides do not divide, a few of these are beyond the border.
    bottom, right = (
        _input_side(steps, described) - border - side for described, side in ((rows, height), (columns, width))
    )
    padded_images = reflect_pad(images, border, right, border, bottom)
    return Patches(padded_images, output_stride, rows=slice(0, rows), columns=slice(0, columns))


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
    return dense_patches(network, images, output_stride, padded).describe(network)


def check_output_stride(output_stride: int) -> None:
    """Raise a ``ValueError`` if an output stride is not one of :data:`OUTPUT_STRIDES`."""
    if output_stride not in OUTPUT_STRIDES:
        msg = f"The output stride must be one of {OUTPUT_STRIDES}, got {output_stride}."
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
    # If the sides are symbols of an export, a comparison would limit the sizes that the exported model takes.
    is_static = isinstance(height, int) and isinstance(width, int)
    if is_static and max(left, right) < width and max(top, bottom) < height:
        return functional.pad(images, (left, right, top, bottom), mode="reflect")
    rows = _reflected_indices(height, top, bottom, images.device)
    columns = _reflected_indices(width, left, right, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def _input_side(steps: list[LayerStep], outputs: int) -> int:
    """Side of the input, in pixels, from which the network computes ``outputs`` descriptors, alike in every phase."""
    side = _quotient(outputs, 2 ** sum(step.split for step in steps))
    for step in reversed(steps):
        if step.pool:
            side = 2 * side + step.split
        side = (side - 1) * step.stride + step.kernel_size
    return side


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
