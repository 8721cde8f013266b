"""Connected regions of a mask, in pixels of the image that was inspected."""

from typing import NamedTuple

import cv2
import numpy as np

__all__ = ["Region", "find_regions"]


class Region(NamedTuple):
    """A connected anomalous region: the box around it in pixels of the image, its area, and its largest score."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def find_regions(mask: np.ndarray, scores: np.ndarray, size: tuple[int, ...]) -> list[Region]:
    """Find the connected regions of a mask, diagonal neighbours included, in an image of a size, the largest first.

    Example:
        >>> mask = np.zeros((4, 8), dtype=bool)
        >>> mask[1:3, 2:5] = True
        >>> find_regions(mask, np.ones((4, 8)), (40, 80))
        [Region(x=20, y=10, width=30, height=20, area=600, peak=1.0)]
    """
    n_labels, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    peaks = np.zeros(n_labels)
    np.maximum.at(peaks, labels.astype(int), scores)
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]
    regions = []
    for (x, y, width, height, area), peak in zip(boxes[1:].tolist(), peaks[1:].tolist(), strict=True):
        left, top, right, bottom = (
            round(each) for each in (x * across, y * down, (x + width) * across, (y + height) * down)
        )
        regions.append(Region(left, top, right - left, bottom - top, round(area * down * across), peak))
    return sorted(regions, key=lambda region: region.area, reverse=True)
