"""Tables of our figures with the paper's in brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from .paper_tables import MEAN

__all__ = ["HEADINGS", "OURS", "Comparison", "compare", "report_files", "table_of"]

OURS = "ours"
HEADINGS = {
    OURS: "ours",
    "nearest_neighbour": "1-NN",
    "one_class_svm": "OC-SVM",
    "k_means": "K-Means",
    "autoencoder": "l2-AE",
    "variational_autoencoder": "VAE",
    "ssim_autoencoder": "SSIM-AE",
    "cnn_feature_dictionary": "CNN-FD",
}
"""The paper's names of the methods, in the order of Table 1."""

HEADING = """# Ours beside the paper

Ours, in brackets the paper's figure and the difference of ours to it. A mean is over the rows of its column that are
there, and the paper's over the same.
"""


class Comparison(NamedTuple):
    """A table of our figures, and the paper's of the same rows and columns, both with their means."""

    title: str
    ours: pd.DataFrame
    paper: pd.DataFrame


def table_of(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Put the figures of results in a table: a row for each ``row``, a column for each name in ``figures``."""
    return pd.DataFrame([{"row": result["row"], **result["figures"]} for result in results]).groupby("row").first()


def compare(title: str, ours: pd.DataFrame, paper: pd.DataFrame, printed: pd.Series | None = None) -> Comparison:
    """Compare our figures with the paper's, and append a row of means over the rows that we have.

    Rows and columns are in the paper's order; other rows follow. Columns that the paper lacks are left out. The paper's
    mean is missing if it lacks one of our rows. ``printed`` are means that the paper prints without all rows; they are
    taken for columns in which we have all rows of the paper.
    """
    columns = [column for column in paper.columns if column in ours.columns]
    known = [row for row in paper.index if row in ours.index]
    ours = ours.reindex(index=[*known, *(row for row in ours.index if row not in known)], columns=columns)
    paper_rows = paper.reindex_like(ours).astype(float)
    present = ours.notna()
    means = paper_rows.where(present).mean().where((paper_rows.notna() | ~present).all())
    if printed is not None and len(known) == len(paper):
        means = means.fillna(printed.reindex(columns).where(present.all()))
    return Comparison(title, _append(ours, ours.mean()), _append(paper_rows, means))


def report_files(
    comparisons: Sequence[Comparison], settings: Mapping[str, Any], failures: Mapping[str, str]
) -> dict[str, bytes]:
    """Make ``results.csv``, a line for each figure, and ``results.md``; ``failures`` are reasons by cell."""
    lines = [
        (table.title, row, column, ours, paper, ours - paper)
        for table in comparisons
        for row, values in table.ours.iterrows()
        for column, ours, paper in zip(table.ours.columns, values, table.paper.loc[row], strict=True)
        if pd.notna(ours)
    ]
    long = pd.DataFrame(lines, columns=["table", "row", "column", "ours", "paper", "difference"])
    text = [HEADING, *(f"## {table.title}\n\n{_markdown(table)}\n" for table in comparisons)]
    if failures:
        text += ["## Failed\n", *(f"- {cell}: {reason}" for cell, reason in failures.items()), ""]
    text += ["## Settings\n", ", ".join(f"{name} {value}" for name, value in settings.items()), ""]
    return {"results.csv": long.to_csv(index=False).encode(), "results.md": "\n".join(text).encode()}


def _append(table: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    return pd.concat([table, means.rename(MEAN).to_frame().T])


def _markdown(table: Comparison) -> str:
    cells = [
        [_cell(*pair) for pair in zip(table.ours.loc[row], table.paper.loc[row], strict=True)]
        for row in table.ours.index
    ]
    lines = [["", *table.ours.columns], ["---"] * (1 + len(table.ours.columns))]
    lines += [[str(row), *texts] for row, texts in zip(table.ours.index, cells, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(ours: float, paper: float) -> str:
    if pd.isna(ours):
        return "-"
    return f"{ours:.3f}" if pd.isna(paper) else f"{ours:.3f} ({paper:.3f}, {ours - paper:+.3f})"
