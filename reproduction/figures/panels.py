"""Anomaly-map panels, as Figures 1, 5 and 6 of the paper."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from anomalib_students.report.pictures import COLOUR_MAP, GROUND_TRUTH

__all__ = ["Layout", "ScoredImage", "draw_panels"]

Layout = Literal["rows", "columns"]
"""Whether an image is a row, as in Figure 5, or a column, as in Figures 1 and 6."""

WIDTH = 8.3
"""Width of a figure in inches, at most: what README shows at 100 dots per inch."""
CELL = 1.9
"""Largest side of a picture in inches."""
BAR = 0.06
"""Width of a colour bar as a part of a picture's."""
HIGHEST = 99.9
"""Percentile of the scores at which the colours end, so that a few pixels do not darken all others."""


class ScoredImage(NamedTuple):
    """An image ``(H, W, 3)`` as the model sees it, without normalisation, and its anomaly maps by scale.

    ``mask`` is the ground truth ``(H, W)``, True where the image is anomalous; None if it is not known.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray | None
    maps: dict[str, np.ndarray]


def draw_panels(
    images: Sequence[ScoredImage], show_images: bool = True, images_as: Layout = "rows", shared_colours: bool = True
) -> Figure:
    """Draw images, their ground truth, and the anomaly maps of each scale and of all together.

    The colours of a map begin at 0, the mean score of anomaly-free pixels, and end at its 99.9th percentile. If they
    are shared, they end at the highest of those of all images at this scale, and go with the square root of the score,
    so that slight anomalies are seen beside strong ones. Without ``show_images``, the maps alone are shown, without the
    outline of the ground truth.
    """
    has_masks = show_images and any(image.mask is not None for image in images)
    headings = [*(["input"] if show_images else []), *(["ground truth"] if has_masks else []), *images[0].maps]
    shape = (len(images), len(headings)) if images_as == "rows" else (len(headings), len(images))
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=_size(*shape, bars=images_as if shared_colours else None), layout="constrained")
        grid, bars = _cells(figure, *shape, images_as if shared_colours else None)
        # By image and heading from here on.
        axes = grid if images_as == "rows" else grid.T
        for row, image in zip(axes, images, strict=True):
            for cell, heading in zip(row, headings, strict=True):
                if heading == "input":
                    cell.imshow(image.image)
                elif heading == "ground truth":
                    _draw_ground_truth(cell, image)
                else:
                    _draw_map(cell, image.maps[heading], image.mask if has_masks else None)
        for heading, cells, bar in zip(headings, axes.T, bars, strict=False):
            if heading in images[0].maps:
                _share_colours(figure, cells, bar, images_as)
            else:
                bar.remove()
        _label(grid, [image.name for image in images], headings, images_as)
    return figure


def _size(rows: int, columns: int, bars: Layout | None) -> tuple[float, float]:
    """Width and height in inches, with room for labels, titles and colour bars."""
    beside, below = (1.0 if bars == "columns" else 0.35), (1.0 if bars == "rows" else 0.25)
    cell = min(CELL, (WIDTH - beside) / columns)
    return columns * cell + beside, rows * cell + below


def _cells(figure: Figure, rows: int, columns: int, bars: Layout | None) -> tuple[np.ndarray, np.ndarray]:
    """Divide a figure into cells for pictures, and narrow cells for colour bars, so that all pictures are in line."""
    if bars is None:
        return figure.subplots(rows, columns, squeeze=False), np.array([])
    if bars == "rows":
        grid = figure.subplots(rows + 1, columns, squeeze=False, height_ratios=[1] * rows + [BAR])
        return grid[:-1], grid[-1]
    grid = figure.subplots(rows, columns + 1, squeeze=False, width_ratios=[1] * columns + [BAR])
    return grid[:, :-1], grid[:, -1]


def _draw_ground_truth(cell: Axes, image: ScoredImage) -> None:
    """Draw the defect in colour on the image in grey."""
    cell.imshow(image.image.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
    if image.mask is not None:
        colour = mpl.colors.to_rgba(GROUND_TRUTH)
        cell.imshow(np.where(image.mask[..., None], colour, 0.0))


def _draw_map(cell: Axes, scores: np.ndarray, mask: np.ndarray | None) -> None:
    highest = float(np.percentile(scores, HIGHEST))
    cell.imshow(scores, cmap=COLOUR_MAP, vmin=0, vmax=highest if highest > 0 else 1)
    if mask is not None and mask.any():
        cell.contour(mask.astype(float), levels=[0.5], colors=GROUND_TRUTH, linewidths=0.8)


def _share_colours(figure: Figure, cells: np.ndarray, bar: Axes, images_as: Layout) -> None:
    pictures = [cell.images[0] for cell in cells]
    colours = PowerNorm(0.5, vmin=0, vmax=max(picture.norm.vmax for picture in pictures))
    for picture in pictures:
        picture.set_norm(colours)
    orientation = "horizontal" if images_as == "rows" else "vertical"
    figure.colorbar(pictures[0], cax=bar, orientation=orientation, extend="max", label="anomaly score")


def _label(grid: np.ndarray, names: Sequence[str], headings: Sequence[str], images_as: Layout) -> None:
    left, top = (names, headings) if images_as == "rows" else (headings, names)
    for cell in cast("Sequence[Axes]", grid.flat):
        cell.set_xticks([])
        cell.set_yticks([])
    for cell, text in zip(grid[:, 0], left, strict=True):
        cell.set_ylabel(text)
    for cell, text in zip(grid[0], top, strict=True):
        cell.set_title(text)
