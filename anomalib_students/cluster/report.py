"""Tables and a chart of the results of a grid, beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from anomalib_students.figures.rendering import png_bytes

__all__ = ["PAPER", "report_files", "results_table"]

SCALES = ("17", "33", "65", "multi-scale")
PAPER = {
    "carpet": (0.795, 0.893, 0.695, 0.879),
    "grid": (0.920, 0.949, 0.819, 0.952),
    "leather": (0.935, 0.956, 0.819, 0.945),
    "tile": (0.936, 0.950, 0.912, 0.946),
    "wood": (0.943, 0.929, 0.725, 0.911),
    "bottle": (0.814, 0.890, 0.918, 0.931),
    "cable": (0.671, 0.764, 0.865, 0.818),
    "capsule": (0.935, 0.963, 0.916, 0.968),
    "hazelnut": (0.971, 0.965, 0.937, 0.965),
    "metal_nut": (0.891, 0.928, 0.895, 0.942),
    "pill": (0.931, 0.959, 0.935, 0.961),
    "screw": (0.915, 0.937, 0.928, 0.942),
    "toothbrush": (0.946, 0.944, 0.863, 0.933),
    "transistor": (0.540, 0.611, 0.701, 0.666),
    "zipper": (0.848, 0.942, 0.933, 0.951),
}
"""AUPRO up to a false positive rate of 0.3 of each scale of :data:`SCALES` on MVTec AD (Table 3)."""


def results_table(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Join the results of categories to one table.

    Args:
        results: Name and rows of each category, as from :func:`~anomalib_students.cluster.finish.finish_category`.

    Returns:
        A row for each category and scale, with the metrics, and the paper's AUPRO where it has one.
    """
    rows = [
        {
            "category": result["category"],
            **row,
            "paper_AUPRO": dict(zip(SCALES, PAPER.get(result["category"], ()), strict=False)).get(row["scale"]),
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
    scales = [scale for scale in SCALES if scale in set(table["scale"])]
    ours = table.pivot_table(index="category", columns="scale", values="pixel_AUPRO", aggfunc="first")
    paper = table.pivot_table(index="category", columns="scale", values="paper_AUPRO", aggfunc="first")
    ours, paper = (frame.reindex(index=ours.index, columns=scales) for frame in (ours, paper))
    if len(ours) > 1:
        # The paper's mean is over all categories, ours over those that are done: of both, over what both have.
        ours.loc["mean"], paper.loc["mean"] = ours.mean(), paper.where(ours.notna()).mean()
    lines = ["# AUPRO up to a false positive rate of 0.3, in brackets the paper's (Table 3)", ""]
    lines += [f"| category | {' | '.join(_heading(scale) for scale in scales)} |", f"|---|{'---|' * len(scales)}"]
    for category, values in ours.iterrows():
        cells = [_cell(values[scale], paper.loc[category, scale]) for scale in scales]
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


def _chart(table: pd.DataFrame) -> bytes:
    """Draw a bar for each category and scale, and a line across it where the paper is."""
    categories = list(dict.fromkeys(table["category"]))
    scales = [scale for scale in SCALES if scale in set(table["scale"])]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(max(4, 1.2 + len(categories) * (0.3 + 0.25 * len(scales))), 3.5), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(scales)
        for number, scale in enumerate(scales):
            rows = table[table["scale"] == scale].set_index("category").reindex(categories)
            places = [index + (number - (len(scales) - 1) / 2) * width for index in range(len(categories))]
            axes.bar(places, rows["pixel_AUPRO"], width, label=_heading(scale))
            label = "paper" if number == 0 and rows["paper_AUPRO"].notna().any() else None
            axes.plot(places, rows["paper_AUPRO"], "k_", markersize=90 * width / len(categories) ** 0.5, label=label)
        axes.set_xticks(range(len(categories)), categories, rotation=30 if len(categories) > 4 else 0)
        axes.set_ylim(0, 1)
        axes.set_ylabel("AUPRO (FPR up to 0.3)")
        axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=len(scales) + 1, frameon=False)
        return png_bytes(figure)
