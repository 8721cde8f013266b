"""Anomaly-map panels, as Figures 1 and 6 of the paper."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from anomalib_students.report.pictures import COLOUR_MAP, GROUND_TRUTH

__all__ = ["ScoredImage", "draw_panels"]

WIDTH = 8.3
"""Width of a figure in inches, at most: what README shows at 100 dots per inch."""
CELL = 1.9
"""Largest side of a picture in inches."""
BAR = 0.06
"""Width of a colour bar, as a fraction of a picture's."""
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


def draw_panels(images: Sequence[ScoredImage], show_images: bool = True, shared_colours: bool = True) -> Figure:
    """Draw a column for each image: the image, its ground truth, and its anomaly maps of each scale and of all.

    The colours of a map begin at 0, the mean score of anomaly-free pixels, and end at its 99.9th percentile. If they
    are shared, they end at the highest of those of all images at this scale, and go with the square root of the score,
    so that slight anomalies are seen beside strong ones. Without ``show_images``, only the maps are shown, without the
    outline of the ground truth.
    """
    has_masks = show_images and any(image.mask is not None for image in images)
    headings = [*(["input"] if show_images else []), *(["ground truth"] if has_masks else []), *images[0].maps]
    beside = 1.0 if shared_colours else 0.35
    cell = min(CELL, (WIDTH - beside) / len(images))
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        size = (len(images) * cell + beside, len(headings) * cell + 0.25)
        figure = Figure(figsize=size, layout="constrained")
        # The last, narrow column is for colour bars, so that all pictures are in line.
        widths = [*[1] * len(images), *([BAR] if shared_colours else [])]
        grid = figure.subplots(len(headings), len(widths), squeeze=False, width_ratios=widths)
        for heading, cells in zip(headings, grid, strict=True):
            for axes, image in zip(cells, images, strict=False):
                axes.set(xticks=[], yticks=[])
                if heading == "input":
                    axes.imshow(image.image)
                elif heading == "ground truth":
                    _draw_ground_truth(axes, image)
                else:
                    _draw_map(axes, image.maps[heading], image.mask if has_masks else None)
            cells[0].set_ylabel(heading)
            if shared_colours and heading in images[0].maps:
                _share_colours(figure, cells)
            elif shared_colours:
                cells[-1].remove()
        for axes, image in zip(grid[0], images, strict=False):
            axes.set_title(image.name)
    return figure


def _draw_ground_truth(axes: Axes, image: ScoredImage) -> None:
    """Draw the defect in colour on the image in grey."""
    axes.imshow(image.image.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
    if image.mask is not None:
        axes.imshow(np.where(image.mask[..., None], mpl.colors.to_rgba(GROUND_TRUTH), 0.0))


def _draw_map(axes: Axes, scores: np.ndarray, mask: np.ndarray | None) -> None:
    highest = float(np.percentile(scores, HIGHEST))
    axes.imshow(scores, cmap=COLOUR_MAP, vmin=0, vmax=highest if highest > 0 else 1)
    if mask is not None and mask.any():
        axes.contour(mask.astype(float), levels=[0.5], colors=GROUND_TRUTH, linewidths=0.8)


def _share_colours(figure: Figure, cells: np.ndarray) -> None:
    *pictures, bar = [axes.images[0] for axes in cells[:-1]] + [cells[-1]]
    colours = PowerNorm(0.5, vmin=0, vmax=max(picture.norm.vmax for picture in pictures))
    for picture in pictures:
        picture.set_norm(colours)
    figure.colorbar(pictures[0], cax=bar, extend="max", label="anomaly score")
