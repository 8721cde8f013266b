"""The report of a grid of trainings: the metrics of each category and scale, beside the paper's Table 3."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .comparison import with_mean
from .paper_tables import TABLE_3
from .report import Comparison, files_of

__all__ = ["grid_report", "results_table"]

TITLE = "AUPRO up to a false positive rate of 0.3"


def results_table(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a row of metrics for each category and scale, with the paper's AUPRO if it has one."""
    paper = TABLE_3.stack()
    rows = [
        {"category": result["category"], **row, "paper_AUPRO": paper.get((result["category"], row["scale"]))}
        for result in sorted(results, key=lambda result: result["category"])
        for row in result["rows"]
    ]
    columns = ["category", "scale", "image_AUROC", "pixel_AUROC", "pixel_AUPRO", "paper_AUPRO"]
    return pd.DataFrame(rows, columns=columns)


def grid_report(results: Sequence[Mapping[str, Any]], failures: Mapping[str, str]) -> dict[str, bytes]:
    """Make ``results.csv``, ``results.md`` in the form of the paper's Table 3 and, with results, ``results.png``.

    ``failures`` are reasons by category.
    """
    table = results_table(results)
    comparisons = []
    if len(table):
        scales = [scale for scale in TABLE_3.columns if scale in set(table["scale"])]
        frames = (table.set_index(["category", "scale"])[name].unstack() for name in ("pixel_AUPRO", "paper_AUPRO"))
        ours, paper = (frame.reindex(columns=scales).astype(float).rename(columns=_heading) for frame in frames)
        if len(ours) > 1:
            ours, paper = with_mean(ours, paper)
        comparisons = [Comparison("Table 3", TITLE, ours, paper, rows="category", is_brief=True)]
    return files_of(f"# {TITLE}, in brackets the paper's (Table 3)", table, comparisons, dict(sorted(failures.items())))


def _heading(scale: str) -> str:
    return f"p = {scale}" if scale.isdigit() else scale
