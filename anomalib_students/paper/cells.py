"""A cell of the tables: a row, a method, and what varies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = [
    "HEADINGS",
    "OURS",
    "Cell",
    "table_of",
]

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
"""What the paper calls the methods, in the order of Table 1."""


@dataclass(frozen=True)
class Cell:
    """A cell of the tables.

    Attributes:
        row: Category or class.
        method: Method.
        variant: What there are several of: the patch size, as ``"p33"``, or the teacher.
    """

    row: str
    method: str
    variant: str

    @property
    def name(self) -> str:
        """Name of its folder in the folder of the experiment."""
        return f"{self.row}/{self.method}-{self.variant}"

    @property
    def label(self) -> str:
        """What users call it."""
        return f"{self.row}, {self.method}, {self.variant}"


def table_of(results: dict[Cell, dict[str, Any]], metric: str, columns: dict[tuple[str, str], str]) -> pd.DataFrame:
    """Put a metric of cells in a table.

    Args:
        results: Results of the cells that are done.
        metric: Name of the metric.
        columns: By method and variant, the column of a cell. Other cells are left out.

    Returns:
        A row for each row of the cells, in their order, and those of the columns that have a value.
    """
    values = [
        (cell.row, columns[cell.method, cell.variant], result["metrics"][metric])
        for cell, result in results.items()
        if (cell.method, cell.variant) in columns
    ]
    table = pd.DataFrame(values, columns=["row", "column", "value"])
    present = [column for column in dict.fromkeys(columns.values()) if column in set(table["column"])]
    return table.pivot(index="row", columns="column", values="value").reindex(
        index=pd.unique(table["row"]), columns=present
    )
