"""Antialiased resizing that can be exported.

Torch has no operator for it that exported models can use. Here the same resampling is written as two matrix products.
"""

import torch


def antialiased_resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize images with a triangular filter as wide as the scale.

    The result is that of torch's antialiased bilinear interpolation.

    Args:
        images: Floating-point images of shape ``(B, C, H, W)``, with values of any range; H and W may be symbols of an
            export.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        Images of shape ``(B, C, height, width)``.

    Example:
        >>> antialiased_resize(torch.tensor([[[[0.0, 0.0, 2.0, 2.0]]]]), 1, 2)
        tensor([[[[0.2857, 1.7143]]]])
    """
    rows = _resampling_matrix(images.shape[-2], height, images)
    columns = _resampling_matrix(images.shape[-1], width, images)
    return rows @ images @ columns.T


def _resampling_matrix(side: int, new_side: int, like: torch.Tensor) -> torch.Tensor:
    """Weights of the old pixels in each new pixel, of shape ``(new_side, side)``."""
    # In whole numbers, as inferencers that compute in bfloat16 would misplace pixels: it has no odd ones above 256. And
    # as tensors, since exporters can't compute with a side that is known only at run time.
    old = torch.scalar_tensor(side, dtype=torch.int64, device=like.device)
    centres = (2 * torch.arange(new_side, device=like.device) + 1) * old
    pixels = (2 * torch.arange(side, device=like.device) + 1) * new_side
    weights = (2 * old.clamp_min(new_side) - (pixels - centres[:, None]).abs()).clamp_min(0).to(like.dtype)
    return weights / weights.sum(dim=1, keepdim=True)
