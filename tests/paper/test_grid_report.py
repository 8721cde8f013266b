"""The report of a grid: what is in it, and that it can be read."""

import io

import numpy as np
import pandas as pd
import pytest

from anomalib_students.paper import report
from anomalib_students.paper.grid_report import grid_report
from anomalib_students.paper.paper_tables import TABLE_3


def result(category, **scales):
    """Results of a category with one number for each scale."""
    rows = [
        {"scale": scale, "image_AUROC": value - 0.2, "pixel_AUROC": value - 0.1, "pixel_AUPRO": value}
        for scale, value in scales.items()
    ]
    return {"category": category, "rows": rows}


@pytest.fixture
def results():
    return [
        result("pill", **{"17": 0.91, "33": 0.92, "65": 0.93, "multi-scale": 0.94}),
        result("cable", **{"17": 0.71, "33": 0.72, "65": 0.73, "multi-scale": 0.74}),
    ]


def read_markdown(files):
    """Cells of the table, by category."""
    lines = files["results.md"].decode().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows if not set(row[0]) <= set("-")}


def test_csv_has_a_row_for_each_category_and_scale_beside_the_paper(results):
    table = pd.read_csv(io.BytesIO(grid_report(results, {})["results.csv"]))
    assert list(table["category"]) == ["cable"] * 4 + ["pill"] * 4
    assert list(table["scale"]) == [*TABLE_3.columns, *TABLE_3.columns]
    pill = table[table["category"] == "pill"].set_index("scale")
    assert pill.loc["33", ["image_AUROC", "pixel_AUROC", "pixel_AUPRO", "paper_AUPRO"]].tolist() == pytest.approx(
        [0.72, 0.82, 0.92, 0.959]
    )


def test_markdown_has_the_shape_of_the_papers_table(results):
    cells = read_markdown(grid_report(results, {}))
    assert cells["category"] == ["p = 17", "p = 33", "p = 65", "multi-scale"]
    assert cells["pill"] == ["0.910 (0.931)", "0.920 (0.959)", "0.930 (0.935)", "0.940 (0.961)"]
    assert cells["mean"][1] == "0.820 (0.861)"


def test_a_category_that_the_paper_has_not_and_a_single_scale(results):
    cells = read_markdown(grid_report([result("flange", **{"33": 0.8})], {}))
    assert cells == {"category": ["p = 33"], "flange": ["0.800"]}


def test_failures_are_told(results):
    markdown = grid_report(results, {"screw": "no images"})["results.md"].decode()
    assert "- screw: no images" in markdown


def test_before_any_category_is_done_the_report_is_empty_and_has_no_chart():
    files = grid_report([], {"screw": "no images"})
    assert files.keys() == {"results.csv", "results.md"}
    assert len(pd.read_csv(io.BytesIO(files["results.csv"]))) == 0


@pytest.mark.parametrize("n_categories", [1, 15])
def test_the_chart_shows_the_values(n_categories, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "png_bytes", lambda figure: figures.append(figure) or b"picture")
    values = {name: 0.5 + 0.02 * number for number, name in enumerate(sorted(TABLE_3.index)[:n_categories])}
    results = [result(name, **{"17": value, "multi-scale": 0.9}) for name, value in values.items()]
    assert grid_report(results, {})["results.png"] == b"picture"
    (axes,) = figures[0].axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    # Several have a mean.
    mean = [np.mean(list(values.values()))] if n_categories > 1 else []
    np.testing.assert_allclose(heights, [[*values.values(), *mean], [0.9] * (n_categories + len(mean))])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["paper", "p = 17", "multi-scale"]


def test_a_category_without_masks_has_a_report_of_images_alone():
    results = [
        {"category": "a", "rows": [{"scale": "33", "image_AUROC": 0.9, "pixel_AUROC": None, "pixel_AUPRO": None}]}
    ]
    files = grid_report(results, {})
    assert read_markdown(files)["a"] == ["-"]
    assert files["results.png"]


def test_a_thousand_categories_have_a_chart():
    results = [result(f"category{number}", **{"17": 0.9}) for number in range(1000)]
    assert len(grid_report(results, {})["results.png"]) > 5000
