"""Reports that compare our figures with the paper's: a table, a text and a chart."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from .comparison import draw_comparison, with_mean

__all__ = ["Comparison", "files_of", "png_bytes", "report_files"]

HEADING = (
    "# Ours beside the paper\n\n"
    "Ours, in brackets the paper's figure and the difference of ours to it. A mean is over the rows of its column that "
    "are there, and the paper's over the same."
)
MOST_INCHES = 60.0
"""Largest width of a chart; Matplotlib limits its pixels."""
COLUMNS = ["table", "row", "column", "ours", "paper", "difference"]


@dataclass(frozen=True)
class Comparison:
    """A table of our figures and the paper's.

    Attributes:
        name: Name of the paper's table.
        title: Title.
        ours: Our figures, with their mean.
        paper: The paper's, of the same rows and columns.
        is_drawn: Whether it is in the chart.
        rows: Heading of the rows.
        is_brief: Whether its text has neither a title nor differences.
    """

    name: str
    title: str
    ours: pd.DataFrame
    paper: pd.DataFrame
    is_drawn: bool = True
    rows: str = ""
    is_brief: bool = False

    @classmethod
    def of(
        cls, name: str, title: str, ours: pd.DataFrame, paper: pd.DataFrame, printed: pd.Series | None = None
    ) -> Comparison:
        """Compare our figures and their means with those of the paper, whose table has any rows and columns.

        Rows are in the paper's order, others after them. ``printed`` are means that the paper prints without all rows.
        """
        known = [row for row in paper.index if row in ours.index]
        rows = [*known, *(row for row in ours.index if row not in known)]
        # The mean that the paper prints is over all of its rows.
        complete = printed if len(known) == len(paper) else None
        ours = ours.reindex(index=rows)
        return cls(name, title, *with_mean(ours, paper.reindex_like(ours).astype(float), complete))

    def markdown(self) -> list[str]:
        """Write it as lines of Markdown."""
        columns = self.ours.columns
        lines = ["", *([] if self.is_brief else [f"## {self.name}: {self.title}", ""])]
        lines += [f"| {self.rows} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for row, values in self.ours.iterrows():
            cells = [self._cell(values[column], self.paper.at[row, column]) for column in columns]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return lines

    def _cell(self, ours: float, paper: float) -> str:
        if pd.isna(ours):
            return "-"
        difference = "" if self.is_brief else f", {ours - paper:+.3f}"
        return f"{ours:.3f}" if pd.isna(paper) else f"{ours:.3f} ({paper:.3f}{difference})"


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """Render a figure as a PNG file with so many pixels per inch."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def report_files(
    comparisons: Sequence[Comparison], settings: Mapping[str, Any], failures: Mapping[str, str]
) -> dict[str, bytes]:
    """Make the report of an experiment: ``results.csv``, ``results.md`` and, if there is any figure, ``results.png``.

    ``failures`` are reasons by the label of a cell.
    """
    files = files_of(HEADING, _long(comparisons), comparisons, failures)
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    files["results.md"] += f"\n## Settings\n\n{said}\n".encode()
    return files


def files_of(
    heading: str, lines: pd.DataFrame, comparisons: Sequence[Comparison], failures: Mapping[str, str]
) -> dict[str, bytes]:
    """Make ``results.csv`` of the lines, ``results.md`` of the rest and, if there is any figure, ``results.png``."""
    text = [heading, *(line for table in comparisons for line in table.markdown())]
    if failures:
        text += ["", "## Failed", "", *(f"- {label}: {reason}" for label, reason in failures.items())]
    files = {"results.csv": lines.to_csv(index=False).encode(), "results.md": ("\n".join(text) + "\n").encode()}
    if comparisons:
        files["results.png"] = _chart(comparisons)
    return files


def _long(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Make a line of each figure."""
    lines = [
        (table.name, row, column, ours, table.paper.at[row, column], ours - table.paper.at[row, column])
        for table in comparisons
        for row, values in table.ours.iterrows()
        for column, ours in values.dropna().items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def _chart(comparisons: Sequence[Comparison]) -> bytes:
    """Draw the tables below each other."""
    drawn = [table for table in comparisons if table.is_drawn]
    widths = [len(table.ours) * (0.3 + 0.16 * len(table.ours.columns)) for table in drawn]
    with mpl.rc_context({"font.size": 9}):
        width = min(MOST_INCHES, max(6.0, 1.2 + max(widths)))
        figure = Figure(figsize=(width, 3.4 * len(drawn)), layout="constrained")
        for table, axes in zip(drawn, figure.subplots(len(drawn), squeeze=False)[:, 0], strict=True):
            draw_comparison(axes, table.ours, table.paper, _bottom(table))
            axes.set_title(f"{table.name}: {table.title}", fontsize=9, loc="left")
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        return png_bytes(figure)


def _bottom(table: Comparison) -> float:
    """Choose the lower end of the axis: 0, or if all figures are high, one that shows how they differ."""
    lowest = min(table.ours.min(axis=None), table.paper.fillna(1).min(axis=None))
    return math.floor(10 * lowest - 0.5) / 10 if lowest >= 0.5 else 0
