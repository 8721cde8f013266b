"""Connected regions of a mask, in pixels of the image that was inspected."""

from itertools import pairwise
from typing import NamedTuple

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


def find_regions(mask: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask, diagonal neighbours included, the largest first.

    Args:
        mask: Anomalous pixels, booleans of shape ``(h, w)``.
        scores: Their scores, of shape ``(h, w)``.
        size: Height and width of the image that boxes and areas refer to.

    Example:
        >>> mask = np.zeros((4, 8), dtype=bool)
        >>> mask[1:3, 2:5] = True
        >>> find_regions(mask, np.ones((4, 8)), (40, 80))
        [Region(x=20, y=10, width=30, height=20, area=600, peak=1.0)]
    """
    # A run is a row with its first column and the one behind its last.
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    labels = _connect(rows, starts, stops, len(mask))
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]
    regions = []
    for label in np.unique(labels):
        chosen = labels == label
        x, right = round(starts[chosen].min() * across), round(stops[chosen].max() * across)
        y, bottom = round(rows[chosen].min() * down), round((rows[chosen].max() + 1) * down)
        runs = zip(rows[chosen], starts[chosen], stops[chosen], strict=True)
        peak = max(float(scores[row, start:stop].max()) for row, start, stop in runs)
        area = round(int((stops[chosen] - starts[chosen]).sum()) * down * across)
        regions.append(Region(x, y, right - x, bottom - y, area, peak))
    return sorted(regions, key=lambda region: region.area, reverse=True)


def _connect(rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, height: int) -> np.ndarray:
    """Number runs so that those which touch, diagonally too, have the same number."""
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    bounds = np.searchsorted(rows, range(height + 1)).tolist()
    for (first, middle), (_, last) in pairwise(pairwise(bounds)):
        above, below = first, middle
        while above < middle and below < last:
            if starts[above] <= stops[below] and starts[below] <= stops[above]:
                parents[root(below)] = root(above)
            if stops[above] < stops[below]:
                above += 1
            else:
                below += 1
    return np.array([root(run) for run in range(len(rows))], dtype=int)
