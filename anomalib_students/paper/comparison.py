"""Our figures beside the paper's: means over the same rows, and bars."""

import pandas as pd
from matplotlib.axes import Axes

from .paper_tables import MEAN

__all__ = ["draw_comparison", "with_mean"]

BARS_WIDTH = 0.8
"""Part of the distance between two rows that the bars of one take up."""
OVERHANG = 0.55
"""Half the length of the paper's line, in widths of a bar, out of which it sticks a little."""


def with_mean(
    ours: pd.DataFrame, paper: pd.DataFrame, printed: pd.Series | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Append a row of means: of ours over what is there, and of the paper over the same rows.

    Args:
        ours: Our figures, with missing ones.
        paper: The paper's, of the same rows and columns.
        printed: Means that the paper prints, by column, for columns of which it does not print all rows. They are taken
            where ours has all of the paper's rows, and so all that the printed mean is over.

    Returns:
        Both tables with the row. A mean of the paper over fewer rows than ours is missing.
    """
    present = ours.notna()
    means = paper.where(present).mean().where((paper.notna() | ~present).all())
    if printed is not None:
        means = means.fillna(printed.reindex(means.index).where(present.all()))
    return _append(ours, ours.mean()), _append(paper, means)


def _append(table: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    return pd.concat([table, means.rename(MEAN).to_frame().T])


def draw_comparison(axes: Axes, ours: pd.DataFrame, paper: pd.DataFrame, bottom: float = 0) -> None:
    """Draw a bar for each row and column, and a line across it where the paper is.

    Args:
        axes: Where to draw.
        ours: Our figures; the names of rows and columns are shown.
        paper: The paper's, of the same rows and columns.
        bottom: Lower end of the axis, whose upper end is 1.
    """
    width = BARS_WIDTH / len(ours.columns)
    for number, column in enumerate(ours.columns):
        places = [index + (number + 0.5) * width - BARS_WIDTH / 2 for index in range(len(ours))]
        axes.bar(places, ours[column], width, label=column)
        known = [(place, value) for place, value in zip(places, paper[column], strict=True) if pd.notna(value)]
        if known:
            left, right = ([place + side * OVERHANG * width for place, _ in known] for side in (-1, 1))
            # One entry in the legend is enough: names that begin with an underscore have none.
            label = "_paper" if axes.collections else "paper"
            axes.hlines([value for _, value in known], left, right, colors="black", linewidth=1.5, label=label)
    axes.set_xticks(
        range(len(ours)),
        list(ours.index),
        rotation=30 if len(ours) > 4 else 0,
        ha="right" if len(ours) > 4 else "center",
    )
    # A line at 1 is to be seen.
    axes.set_ylim(bottom, 1 + 0.01 * (1 - bottom))
    axes.grid(axis="y", alpha=0.3)
