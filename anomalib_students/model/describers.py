"""What is described: every pixel by the patch around it, or the image as one patch (Section 4.1)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from anomalib_students.networks.dense import Patches, check_output_stride, dense_patches, reflect_pad
from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.resize import antialiased_resize

from .anomaly_map import upsample

__all__ = [
    "SMALLEST_TILE",
    "Describer",
    "Mode",
    "PatchDescriber",
    "PixelDescriber",
    "create_describer",
    "split_batch",
    "zoom",
]

Mode = Literal["pixel", "patch"]
"""What is scored: every pixel of an image, or the image as a whole, as one patch (Section 4.1)."""

SMALLEST_TILE = 16
"""Least side of a tile in pixels: smaller ones would be nearly all border."""


@dataclass(frozen=True)
class Describer(ABC):
    """How images are turned into patches, and the scores of the patches into those of the images.

    Args:
        max_tile: Largest side in pixels of what is described at once, which bounds the memory. Smaller images are
            described together up to that size. Exported models describe all at once.
    """

    max_tile: int

    def patches(self, network: PatchNetwork, images: torch.Tensor) -> Iterator[Patches]:
        """Turn images into patches.

        Args:
            network: Patch network, or one of several of the same architecture.
            images: Images of shape ``(B, 3, H, W)``.

        Yields:
            Patches that are described at once. Together they are all of the images.
        """
        if torch.compiler.is_exporting():
            yield from self._cut(network, images)
            return
        first = 0
        for part in split_batch(images, self.max_tile**2):
            for patches in self._cut(network, part):
                yield patches._replace(images=slice(first, first + len(part)))
            first += len(part)

    def score(
        self, network: PatchNetwork, images: torch.Tensor, score: Callable[[Patches], torch.Tensor]
    ) -> torch.Tensor:
        """Score images.

        Args:
            network: Patch network, or one of several of the same architecture.
            images: Images of shape ``(B, 3, H, W)``.
            score: Function of patches that returns their scores, of shape ``(B, rows, columns)``.

        Returns:
            Scores of shape ``(B, 1, H, W)``, or ``(B, 1, 1, 1)`` if each image is one patch.
        """
        parts = [((part.images, part.rows, part.columns), score(part)) for part in self.patches(network, images)]
        (_, rows, columns), scores = parts[-1]
        if len(parts) > 1:
            scores = scores.new_empty(len(images), rows.stop, columns.stop)
            for place, of_part in parts:
                scores[place] = of_part
        return self._upsampled(scores.unsqueeze(1), images)

    @abstractmethod
    def _cut(self, network: PatchNetwork, images: torch.Tensor) -> Iterator[Patches]:
        """Turn images that are described together into patches."""

    @abstractmethod
    def _upsampled(self, scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Turn scores of patches, of shape ``(B, 1, rows, columns)``, into those of images."""


@dataclass(frozen=True)
class PixelDescriber(Describer):
    """Describe every s-th pixel by the patch around it; the scores of the others are interpolated.

    Large images are cut into tiles, which bring along the border of ``(p - 1) / 2`` pixels that their patches reach
    over, so that the descriptors are those of the whole image.

    Args:
        max_tile: See :class:`Describer`.
        output_stride: Distance s in pixels between described pixels.

    Example:
        >>> network, images = PatchNetwork(patch_size=33), torch.rand(1, 3, 40, 50)
        >>> describer = PixelDescriber(max_tile=32, output_stride=4)
        >>> [tuple(part.describe(network).shape) for part in describer.patches(network, images)]
        [(1, 128, 5, 7), (1, 128, 5, 6), (1, 128, 5, 7), (1, 128, 5, 6)]
        >>> describer.score(network, images, lambda part: part.describe(network).mean(dim=1)).shape
        torch.Size([1, 1, 40, 50])
    """

    output_stride: int

    def _cut(self, network: PatchNetwork, images: torch.Tensor) -> Iterator[Patches]:
        if torch.compiler.is_exporting():
            yield dense_patches(network, images, self.output_stride)
            return
        border, stride = network.patch_size // 2, self.output_stride
        padded = reflect_pad(images, border, border, border, border)
        for top, bottom in self._spans(images.shape[-2]):
            for left, right in self._spans(images.shape[-1]):
                tile = padded[..., top : bottom + 2 * border, left : right + 2 * border]
                yield dense_patches(network, tile, stride, padded=True)._replace(
                    rows=slice(top // stride, -(-bottom // stride)), columns=slice(left // stride, -(-right // stride))
                )

    def _spans(self, side: int) -> Iterator[tuple[int, int]]:
        """Cut a side into spans of about the same size, of which all but the last are multiples of the stride."""
        n_described = -(-side // self.output_stride)
        n_tiles = -(-n_described // (self.max_tile // self.output_stride))
        span = -(-n_described // n_tiles) * self.output_stride
        for start in range(0, side, span):
            yield start, min(start + span, side)

    def _upsampled(self, scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return upsample(scores, self.output_stride, images.shape[-2:])


@dataclass(frozen=True)
class PatchDescriber(Describer):
    """Describe an image as the one patch that it is zoomed to (Section 4.1).

    Args:
        max_tile: See :class:`Describer`.

    Example:
        >>> network, images = PatchNetwork(patch_size=33), torch.rand(2, 3, 28, 28)
        >>> [tuple(part.describe(network).shape) for part in PatchDescriber(max_tile=512).patches(network, images)]
        [(2, 128, 1, 1)]
    """

    def _cut(self, network: PatchNetwork, images: torch.Tensor) -> Iterator[Patches]:
        yield Patches(zoom(images, network.patch_size), rows=slice(0, 1), columns=slice(0, 1))

    def _upsampled(self, scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return scores


def create_describer(mode: Mode, output_stride: int, max_tile: int) -> Describer:
    """Choose the describer of a mode.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_output_stride(output_stride)
    if max_tile < SMALLEST_TILE:
        msg = f"max_tile must be at least {SMALLEST_TILE} pixels, got {max_tile}."
        raise ValueError(msg)
    if mode not in get_args(Mode):
        msg = f"mode must be one of {get_args(Mode)}, got {mode!r}."
        raise ValueError(msg)
    return PatchDescriber(max_tile) if mode == "patch" else PixelDescriber(max_tile, output_stride)


def split_batch(images: torch.Tensor, pixels: int) -> tuple[torch.Tensor, ...]:
    """Split a batch into parts of at most ``pixels`` pixels together, but at least one image."""
    return images.split(max(1, pixels // images[0, 0].numel()))


def zoom(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Zoom images to the side of a patch, to shape ``(B, 3, p, p)`` (Section 4.1)."""
    # If the sides are symbols of an export, a comparison would limit the sizes that the exported model takes.
    is_zoomed = all(isinstance(length, int) and length == patch_size for length in images.shape[-2:])
    return images if is_zoomed else antialiased_resize(images, patch_size, patch_size)
