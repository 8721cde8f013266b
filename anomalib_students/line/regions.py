"""Connected regions of a mask, in pixels of the image that was inspected."""

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
    """Find the connected regions of a mask, diagonal neighbours included, in an image of a size, the largest first.

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
    # Runs of the row above that touch a run follow each other; this joins them.
    parents, pitch = list(range(len(rows))), mask.shape[1] + 2

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    first = np.searchsorted(rows * pitch + stops, (rows - 1) * pitch + starts)
    last = np.searchsorted(rows * pitch + starts, (rows - 1) * pitch + stops, side="right")
    for run, touched in enumerate(map(range, first.tolist(), last.tolist())):
        for above in touched:
            parents[root(above)] = root(run)
    labels = np.array([root(run) for run in range(len(rows))], dtype=int)
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]
    regions = []
    for label in np.unique(labels):
        runs = np.stack([rows, starts, stops], axis=1)[labels == label]
        (top, left, _), (bottom, _, right) = runs.min(axis=0), runs.max(axis=0)
        x, y = round(left * across), round(top * down)
        peak = max(float(scores[row, start:stop].max()) for row, start, stop in runs)
        area = round(int((runs[:, 2] - runs[:, 1]).sum()) * down * across)
        regions.append(Region(x, y, round(right * across) - x, round((bottom + 1) * down) - y, area, peak))
    return sorted(regions, key=lambda region: region.area, reverse=True)
