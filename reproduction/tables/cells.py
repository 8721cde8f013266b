"""Cells of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["HEADINGS", "OURS", "Cell", "table_of"]

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


@dataclass(frozen=True)
class Cell:
    """A cell of the tables.

    Attributes:
        row: Category or class.
        method: Method.
        variant: Patch sizes, such as ``"p33"``, or teacher.
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
        """Name for users."""
        return f"{self.row}, {self.method}, {self.variant}"


def table_of(results: dict[Cell, dict[str, Any]], metric: str, columns: dict[tuple[str, str], str]) -> pd.DataFrame:
    """Put a metric of cells in a table, whose columns are given by method and variant.

    Rows are in the order of the cells. Cells of other columns, and columns without a cell, are left out.
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
