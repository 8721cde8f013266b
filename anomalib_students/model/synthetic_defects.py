"""Synthetic defects on what the students see in training, which they learn to ignore."""

import torch
import torch.nn.functional as F

__all__ = ["SyntheticDefects"]

LARGEST_COVER = 0.15
"""Largest part of an image that blobs cover."""
LARGEST_WIDTH = 0.08
"""Largest width of lines, as the height of the field that they are contours of."""
LEAST_OPACITY = 0.15
"""Opacity of the faintest defects."""


class SyntheticDefects:
    """Paint blobs and lines on a part of the training images, of other colours, textures or places of the image.

    The teacher describes the image itself and the students the painted one, as in Zhang et al., "DeSTSeg: Segmentation
    Guided Denoising Student-Teacher for Anomaly Detection" (CVPR 2023). Asked for what the teacher sees without the
    defect, students learn to describe good parts, rather than to imitate the teacher on defects too.

    Args:
        share: Part of the images that are painted on, in ``[0, 1]``.

    Raises:
        ValueError: If ``share`` is out of range.

    Example:
        >>> images = torch.rand(2, 3, 64, 64)
        >>> SyntheticDefects(share=1.0)(images).shape
        torch.Size([2, 3, 64, 64])
        >>> SyntheticDefects(share=0.0)(images) is images
        True
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            msg = f"synthetic_defects must lie in [0, 1], got {share}."
            raise ValueError(msg)
        self.share = share

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Paint on random images of a batch of shape ``(B, 3, H, W)``, by random numbers of the CPU.

        Returns the images themselves if none is painted on.
        """
        if self.share == 0:
            return images
        chosen = torch.rand(len(images), generator=generator) < self.share
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
    return F.interpolate(grid, tuple(size), mode="bicubic", align_corners=False)[0]


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high, (), generator=generator))
