"""Compare our figures with the paper's: means over the same rows, and bars."""

import pandas as pd
from matplotlib.axes import Axes

from .paper_tables import MEAN

__all__ = ["draw_comparison", "with_mean"]

BARS_WIDTH = 0.8
"""Width of the bars of a row, as a part of the distance between rows."""
OVERHANG = 0.55
"""Half the length of the paper's line, in widths of a bar."""


def with_mean(
    ours: pd.DataFrame, paper: pd.DataFrame, printed: pd.Series | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Append a row of means to both tables, over the rows that we have.

    The paper's mean is missing if it lacks some of our rows. ``printed`` are means that the paper prints without all
    rows; they are taken for columns in which we have all of the paper's rows.
    """
    present = ours.notna()
    means = paper.where(present).mean().where((paper.notna() | ~present).all())
    if printed is not None:
        means = means.fillna(printed.reindex(means.index).where(present.all()))
    return _append(ours, ours.mean()), _append(paper, means)


def _append(table: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    return pd.concat([table, means.rename(MEAN).to_frame().T])


def draw_comparison(axes: Axes, ours: pd.DataFrame, paper: pd.DataFrame, bottom: float = 0) -> None:
    """Draw a bar for each row and column, from ``bottom`` to 1, and a line across it at the paper's figure."""
    width = BARS_WIDTH / len(ours.columns)
    for number, column in enumerate(ours.columns):
        places = [index + (number + 0.5) * width - BARS_WIDTH / 2 for index in range(len(ours))]
        axes.bar(places, ours[column], width, label=column)
        known = [(place, value) for place, value in zip(places, paper[column], strict=True) if pd.notna(value)]
        if known:
            left, right = ([place + side * OVERHANG * width for place, _ in known] for side in (-1, 1))
            # One entry in the legend is enough; labels that begin with an underscore have none.
            label = "_paper" if axes.collections else "paper"
            axes.hlines([value for _, value in known], left, right, colors="black", linewidth=1.5, label=label)
    axes.set_xticks(
        range(len(ours)),
        list(ours.index),
        rotation=30 if len(ours) > 4 else 0,
        ha="right" if len(ours) > 4 else "center",
    )
    # Lines at 1 must be visible.
    axes.set_ylim(bottom, 1 + 0.01 * (1 - bottom))
    axes.grid(axis="y", alpha=0.3)
