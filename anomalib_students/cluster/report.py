"""Tables and a chart of the results of a grid, beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from anomalib_students.figures.rendering import png_bytes
from anomalib_students.paper.comparison import draw_comparison, with_mean
from anomalib_students.paper.paper_tables import TABLE_3

__all__ = ["report_files", "results_table"]


def results_table(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Join the results of categories to one table.

    Args:
        results: Name and rows of each category, as from :func:`~anomalib_students.cluster.finish.finish_category`.

    Returns:
        A row for each category and scale, with the metrics, and the paper's AUPRO where it has one.
    """
    paper = TABLE_3.stack()
    rows = [
        {
            "category": result["category"],
            **row,
            "paper_AUPRO": paper.get((result["category"], row["scale"])),
        }
        for result in sorted(results, key=lambda result: result["category"])
        for row in result["rows"]
    ]
    columns = ["category", "scale", "image_AUROC", "pixel_AUROC", "pixel_AUPRO", "paper_AUPRO"]
    return pd.DataFrame(rows, columns=columns)


def report_files(results: Sequence[Mapping[str, Any]], failures: Mapping[str, str]) -> dict[str, bytes]:
    """Make all parts of the report.

    Args:
        results: Results of the finished categories.
        failures: What went wrong with the others.

    Returns:
        Content of ``results.csv``; of ``results.md``, in the shape of the paper's Table 3; and, if any category is
        finished, of the chart ``results.png``.
    """
    table = results_table(results)
    files = {
        "results.csv": table.to_csv(index=False).encode(),
        "results.md": _markdown(table, failures).encode(),
    }
    if len(table):
        files["results.png"] = _chart(table)
    return files


def _markdown(table: pd.DataFrame, failures: Mapping[str, str]) -> str:
    ours, paper = _pivot(table)
    if len(ours) > 1:
        ours, paper = with_mean(ours, paper)
    lines = ["# AUPRO up to a false positive rate of 0.3, in brackets the paper's (Table 3)", ""]
    lines += [f"| category | {' | '.join(ours.columns)} |", f"|---|{'---|' * len(ours.columns)}"]
    for category, values in ours.iterrows():
        cells = [_cell(values[scale], paper.at[category, scale]) for scale in ours.columns]
        lines.append(f"| {category} | {' | '.join(cells)} |")
    if failures:
        lines += ["", "## Failed", ""]
        lines += [f"- {category}: {reason}" for category, reason in sorted(failures.items())]
    return "\n".join(lines) + "\n"


def _heading(scale: str) -> str:
    return f"p = {scale}" if scale.isdigit() else scale


def _cell(value: float, paper: float) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if pd.isna(paper) else f"{value:.3f} ({paper:.3f})"


def _pivot(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give ours and the paper's figures the shape of Table 3, with a row for each category."""
    scales = [scale for scale in TABLE_3.columns if scale in set(table["scale"])]
    frames = (table.set_index(["category", "scale"])[name].unstack() for name in ("pixel_AUPRO", "paper_AUPRO"))
    ours, paper = (frame.reindex(columns=scales).astype(float).rename(columns=_heading) for frame in frames)
    return ours, paper


def _chart(table: pd.DataFrame) -> bytes:
    ours, paper = _pivot(table)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(max(4, 1.2 + len(ours) * (0.3 + 0.25 * len(ours.columns))), 3.5), layout="constrained")
        axes = figure.subplots()
        draw_comparison(axes, ours, paper)
        axes.set_ylabel("AUPRO (FPR up to 0.3)")
        figure.legend(loc="outside upper center", ncols=len(ours.columns) + 1, frameon=False)
        return png_bytes(figure)
