"""Structural similarity of two images at every pixel (SSIM; Wang et al., 2004).

Neither kornia nor torchmetrics can be used: kornia has no other constants than those of Wang et al., and torchmetrics
splits its intermediate results by the batch size, so that an exported model would take batches of one size only.
"""

import torch
from kornia.filters import gaussian_blur2d

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
    # The variances are differences of nearly equal numbers, which half precision cannot distinguish.
    with torch.autocast(images.device.type, enabled=False):
        x, y = (image.to(torch.promote_types(image.dtype, torch.float32)) for image in (images, others))
        moments = torch.cat([x, y, x * x, y * y, x * y], dim=1)
        moments = gaussian_blur2d(moments, (WINDOW_SIZE, WINDOW_SIZE), (WINDOW_STD, WINDOW_STD))
        mean_x, mean_y, square_x, square_y, product = moments.split(1, dim=1)
        variances = (square_x - mean_x.square()).clamp_min(0) + (square_y - mean_y.square()).clamp_min(0)
        covariance = product - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
        return luminance * (2 * covariance + c2) / (variances + c2)
