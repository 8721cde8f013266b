"""The report of an experiment: a table, a text and a chart, in which the paper's figures are beside ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from anomalib_students.figures.rendering import png_bytes
from anomalib_students.paper.comparison import draw_comparison, with_mean

__all__ = ["Comparison", "report_files"]

LEGEND = (
    "Ours, in brackets the paper's figure and the difference of ours to it. A mean is over the rows of its column that "
    "are there, and the paper's over the same."
)
COLUMNS = ["table", "row", "column", "ours", "paper", "difference"]


@dataclass(frozen=True)
class Comparison:
    """A table of ours beside the paper's.

    Attributes:
        name: Name of the paper's table.
        title: What it shows.
        ours: Our figures, with their mean.
        paper: The paper's, of the same rows and columns.
        is_drawn: Whether it is in the chart.
    """

    name: str
    title: str
    ours: pd.DataFrame
    paper: pd.DataFrame
    is_drawn: bool = True

    @classmethod
    def of(
        cls, name: str, title: str, ours: pd.DataFrame, paper: pd.DataFrame, printed: pd.Series | None = None
    ) -> Comparison:
        """Compare figures of ours with the paper's, and so their means.

        Args:
            name: Name of the paper's table.
            title: What it shows.
            ours: Our figures.
            paper: The paper's table, with any rows and columns.
            printed: Means that the paper prints, for columns of which it does not print all rows.

        Returns:
            The comparison. Rows are in the paper's order, others after them.
        """
        known = [row for row in paper.index if row in ours.index]
        rows = [*known, *(row for row in ours.index if row not in known)]
        # What the paper has no row of cannot be in the mean that it prints.
        complete = printed if len(known) == len(paper) else None
        ours = ours.reindex(index=rows)
        return cls(name, title, *with_mean(ours, paper.reindex_like(ours).astype(float), complete))


def report_files(
    comparisons: Sequence[Comparison], settings: Mapping[str, Any], failures: Mapping[str, str]
) -> dict[str, bytes]:
    """Make all parts of the report.

    Args:
        comparisons: The tables.
        settings: What decided on the results.
        failures: What went wrong, by the label of a cell.

    Returns:
        Content of ``results.csv``, with a line for each figure; of ``results.md``; and, if there is any figure, of the
        chart ``results.png``.
    """
    files = {
        "results.csv": _long(comparisons).to_csv(index=False).encode(),
        "results.md": _markdown(comparisons, settings, failures).encode(),
    }
    if comparisons:
        files["results.png"] = _chart(comparisons)
    return files


def _long(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Give each figure a line."""
    lines = [
        (table.name, row, column, ours, table.paper.at[row, column], ours - table.paper.at[row, column])
        for table in comparisons
        for row, values in table.ours.iterrows()
        for column, ours in values.dropna().items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def _markdown(comparisons: Sequence[Comparison], settings: Mapping[str, Any], failures: Mapping[str, str]) -> str:
    lines = ["# Ours beside the paper", "", LEGEND]
    for table in comparisons:
        lines += ["", f"## {table.name}: {table.title}", ""]
        lines += [f"| | {' | '.join(table.ours.columns)} |", f"|---|{'---|' * len(table.ours.columns)}"]
        for row, values in table.ours.iterrows():
            cells = [_cell(values[column], table.paper.at[row, column]) for column in table.ours.columns]
            lines.append(f"| {row} | {' | '.join(cells)} |")
    if failures:
        lines += ["", "## Failed", ""]
        lines += [f"- {label}: {reason}" for label, reason in failures.items()]
    lines += ["", "## Settings", ""]
    lines += [", ".join(f"{name} {value}" for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def _cell(ours: float, paper: float) -> str:
    if pd.isna(ours):
        return "-"
    return f"{ours:.3f}" if pd.isna(paper) else f"{ours:.3f} ({paper:.3f}, {ours - paper:+.3f})"


def _chart(comparisons: Sequence[Comparison]) -> bytes:
    """Draw the tables below each other."""
    drawn = [table for table in comparisons if table.is_drawn]
    widths = [len(table.ours) * (0.3 + 0.16 * len(table.ours.columns)) for table in drawn]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(max(6.0, 1.2 + max(widths)), 3.4 * len(drawn)), layout="constrained")
        for table, axes in zip(drawn, figure.subplots(len(drawn), squeeze=False)[:, 0], strict=True):
            draw_comparison(axes, table.ours, table.paper, _bottom(table))
            axes.set_title(f"{table.name}: {table.title}", fontsize=9, loc="left")
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        return png_bytes(figure)


def _bottom(table: Comparison) -> float:
    """Choose the lower end of the axis: 0, or where all figures are high, one that shows how they differ."""
    lowest = min(table.ours.min(axis=None), table.paper.fillna(1).min(axis=None))
    return 0 if lowest < 0.5 else math.floor(10 * lowest - 0.5) / 10
