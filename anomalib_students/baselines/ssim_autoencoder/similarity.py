"""Structural similarity of two images at every pixel (SSIM; Wang et al., 2004).

torchmetrics has it too, but splits its intermediate results by the batch size, so that an exported model would take
batches of one size only. The tests compare the two.
"""

import torch
from torch.nn import functional

from anomalib_students.model.dense import reflect_pad

__all__ = ["CONSTANTS", "structural_similarity"]

CONSTANTS = (0.01**2, 0.03**2)
"""The constants ``c1`` and ``c2`` of Wang et al. for pixels in [0, 1]."""
WINDOW_SIZE = 11
"""Side of the window in pixels: that of Wang et al., and of Bergmann et al. on MVTec AD."""
WINDOW_STD = 1.5
"""Standard deviation in pixels of the window's Gaussian weights (Wang et al.)."""


def structural_similarity(images: torch.Tensor, others: torch.Tensor, c1: float, c2: float) -> torch.Tensor:
    """Compare luminance, contrast and structure in a window around each pixel.

    With the windows' means ``m``, variances ``v`` and covariance ``v_xy``, the similarity is::

        (2 m_x m_y + c1) (2 v_xy + c2) / ((m_x^2 + m_y^2 + c1) (v_x + v_y + c2))

    Windows at the border see the image continued by reflection.

    Args:
        images: Grey images of shape ``(B, 1, H, W)``.
        others: Grey images of the same shape.
        c1: Positive constant that keeps dark windows from being divided by zero.
        c2: Positive constant that does so for windows without contrast.

    Returns:
        Similarity of shape ``(B, 1, H, W)`` in ``[-1, 1]``: 1 where both images are alike.

    Example:
        >>> images = torch.rand(1, 1, 16, 16)
        >>> structural_similarity(images, images, c1=1e-4, c2=9e-4).min()
        tensor(1.)
    """
    # The variances are differences of nearly equal numbers, which half precision cannot tell apart.
    with torch.autocast(images.device.type, enabled=False):
        x, y = images.to(_at_least_single(images)), others.to(_at_least_single(others))
        moments = _window_means(torch.cat([x, y, x * x, y * y, x * y], dim=1))
        mean_x, mean_y, square_x, square_y, product = moments.split(1, dim=1)
        variances = (square_x - mean_x.square()).clamp_min(0) + (square_y - mean_y.square()).clamp_min(0)
        covariance = product - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
        return luminance * (2 * covariance + c2) / (variances + c2)


def _window_means(maps: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the window around each pixel, for maps of shape ``(B, C, H, W)``."""
    radius = WINDOW_SIZE // 2
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    weights = torch.softmax(-offsets.square() / (2 * WINDOW_STD**2), dim=0)
    channels = maps.shape[1]
    padded = reflect_pad(maps, radius, radius, radius, radius)
    # The Gaussian is a product of one along the columns and one along the rows.
    rows = functional.conv2d(padded, weights.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return functional.conv2d(rows, weights.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)


def _at_least_single(images: torch.Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)
