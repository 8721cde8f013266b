"""The report of an experiment: its numbers, and that it can be read."""

import io

import numpy as np
import pandas as pd
import pytest

from anomalib_students.paper import report
from anomalib_students.paper.paper_tables import TABLE_1, TABLE_3, TABLE_6
from anomalib_students.paper.report import report_files
from reproduction.tables.cells import Cell
from reproduction.tables.mvtec import mvtec_tables
from reproduction.tables.one_class import one_class_tables

SETTINGS = {"epochs": 12, "lr": 0.001}


def results(metric, **values):
    """Results of cells, named ``row__method__variant``."""
    return {
        Cell(*(part.replace("_p", "+") if "multi" in part else part for part in name.split("__"))): {
            "metrics": {metric: value}
        }
        for name, value in values.items()
    }


@pytest.fixture
def mvtec():
    """Two categories of the paper's and one of ours; a baseline lacks one of them."""
    values = {
        "pill__ours__p33": 0.95, "pill__ours__p65": 0.91, "pill__k_means__p65": 0.50, "pill__k_means__p33": 0.77,
        "bottle__ours__p33": 0.85, "bottle__ours__p65": 0.92, "bottle__k_means__p65": 0.45,
    }  # fmt: skip
    return results("pixel_AUPRO", **values)


def read(comparisons, failures=None):
    """Tables of the Markdown and of the CSV."""
    files = report_files(comparisons, SETTINGS, failures or {})
    rows = [line.strip("|").split("|") for line in files["results.md"].decode().splitlines() if line.startswith("|")]
    markdown = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row)
        if name == "":
            markdown[len(markdown)] = table = {"": cells}
        elif set(name) != {"-"}:
            table[name] = cells
    return list(markdown.values()), pd.read_csv(io.BytesIO(files["results.csv"]), dtype={"row": str})


def test_numbers_are_those_that_pandas_computes(mvtec):
    (table_1, table_3), lines = read(mvtec_tables(mvtec, 65))
    # In the paper's order.
    assert list(table_1) == ["", "bottle", "pill", "mean"]
    assert table_1[""] == ["ours", "K-Means"]
    assert table_1["pill"] == ["0.910 (0.935, -0.025)", "0.500 (0.514, -0.014)"]
    assert table_3["bottle"] == ["0.850 (0.890, -0.040)", "0.920 (0.918, +0.002)"]

    rows = ["bottle", "pill"]
    paper = TABLE_1.loc[rows, ["ours", "k_means"]].mean()
    ours = pd.DataFrame({"ours": [0.92, 0.91], "k_means": [0.45, 0.50]}).mean()
    assert [cell.partition(" ")[0] for cell in table_1["mean"]] == ["0.915", "0.475"]
    means = lines[(lines["table"] == "Table 1") & (lines["row"] == "mean")].set_index("column")
    np.testing.assert_allclose(means["ours"], ours)
    np.testing.assert_allclose(means["paper"], paper)
    assert list(lines.columns) == ["table", "row", "column", "ours", "paper", "difference"]
    np.testing.assert_allclose(lines["difference"], lines["ours"] - lines["paper"])
    assert len(lines) == 12


def test_what_is_not_there_is_not_in_the_mean(mvtec):
    mvtec |= results("pixel_AUPRO", flange__ours__p65=0.4)
    (table_1, table_3), lines = read(mvtec_tables(mvtec, 65))
    assert table_1["flange"] == ["0.400", "-"]
    assert table_3["flange"] == ["-", "0.400"]
    means = lines[lines["row"] == "mean"].set_index(["table", "column"])[["ours", "paper"]]
    rows = ["bottle", "pill"]
    # The paper has no such category, and so no mean over these three.
    np.testing.assert_allclose(means.loc["Table 1", "ours"], [(0.92 + 0.91 + 0.4) / 3, np.nan])
    np.testing.assert_allclose(means.loc["Table 1", "K-Means"], [0.475, TABLE_1.loc[rows, "k_means"].mean()])
    np.testing.assert_allclose(means.loc["Table 3", "p = 33"], [0.9, TABLE_3.loc[rows, "33"].mean()])


def test_methods_at_another_patch_size_are_beside_ours_at_the_same(mvtec):
    (table_1, _), _ = read(mvtec_tables(mvtec, 33))
    paper = TABLE_3.at["pill", "33"]
    assert table_1["pill"] == [f"0.950 ({paper:.3f}, {0.95 - paper:+.3f})", "0.770 (0.514, +0.256)"]
    assert table_1["bottle"][1] == "-"


def test_all_scales_together_are_beside_the_papers_and_others_are_not():
    values = {"pill__ours__multi-scale-p17_p33_p65": 0.9, "pill__ours__multi-scale-p33_p65": 0.8}
    comparisons = mvtec_tables(results("pixel_AUPRO", **values), 65)
    assert [table.name for table in comparisons] == ["Table 3"]
    (table_3,), _ = read(comparisons)
    assert dict(zip(table_3[""], table_3["pill"], strict=True)) == {
        "multi-scale": "0.900 (0.961, -0.061)",
        "p = 33+65": "0.800",
    }


def test_means_over_all_digits_are_beside_those_that_are_printed():
    values = {f"{digit}__ours__bundled": 0.99 for digit in TABLE_6.index}
    values |= {f"{digit}__ours__k1-m0-c0": 0.98 for digit in TABLE_6.index[:2]}
    values |= {"0__k_means__bundled": 0.97, "0__ours__k0-m0.5-c1": 0.5}
    (table_2, table_6), lines = read(one_class_tables(results("image_AUROC", **values), "mnist"))
    headings = ["ours, bundled teacher", "K-Means", "ours, L_k", "ours, 0.5 L_m 1 L_c"]
    assert table_6[""] == headings
    assert table_6["0"] == ["0.990 (0.999, -0.009)", "0.970 (0.973, -0.003)", "0.980 (0.999, -0.019)", "0.500"]
    # Of the ninth digit the paper's figure is not known.
    assert table_6["9"] == ["0.990", "-", "-", "-"]
    assert table_2[headings[0]] == ["0.990 (0.994, -0.004)"]
    assert table_2[headings[2]] == ["0.980 (0.999, -0.019)"]
    assert lines[lines["table"] == "Table 2"]["column"].unique() == ["MNIST"]


def test_failures_and_settings_are_told(mvtec):
    text = report_files(mvtec_tables(mvtec, 65), SETTINGS, {"screw, ours, p33": "no images"})["results.md"].decode()
    assert "- screw, ours, p33: no images" in text
    assert "epochs 12, lr 0.001" in text


def test_before_any_cell_is_done_there_are_no_tables():
    assert mvtec_tables({}, 65) == one_class_tables({}, "cifar10") == []
    files = report_files([], SETTINGS, {})
    assert files.keys() == {"results.csv", "results.md"}
    assert len(pd.read_csv(io.BytesIO(files["results.csv"]))) == 0


def test_the_chart_shows_the_values(mvtec, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "png_bytes", lambda figure: figures.append(figure) or b"picture")
    tables = mvtec_tables(mvtec, 65)
    assert report_files(tables, SETTINGS, {})["results.png"] == b"picture"
    for table, axes in zip(tables, figures[0].axes, strict=True):
        assert axes.get_title(loc="left").startswith(table.name)
        heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
        np.testing.assert_allclose(heights, table.ours.T)
