"""Means of ours and of the paper's figures, and the bars that show them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from anomalib_students.paper.comparison import draw_comparison, with_mean

NAN = float("nan")


@pytest.fixture
def tables():
    rows = ["a", "b", "c"]
    ours = pd.DataFrame({"all": [0.1, 0.2, 0.6], "some": [0.5, NAN, 0.7], "lost": [0.2, 0.3, 0.4]}, index=rows)
    paper = pd.DataFrame({"all": [0.3, 0.3, 0.9], "some": [0.1, 0.2, 0.5], "lost": [0.3, 0.4, NAN]}, index=rows)
    return ours, paper


def test_means_are_over_the_same_rows(tables):
    ours, paper = (frame.loc["mean"] for frame in with_mean(*tables))
    np.testing.assert_allclose(ours, [0.3, 0.6, 0.3])
    # Of the paper's second column the rows that ours has; its third has not all of them.
    np.testing.assert_allclose(paper, [0.5, 0.3, NAN])


def test_a_printed_mean_stands_in_where_ours_has_all_rows(tables):
    printed = pd.Series({"all": 0.8, "some": 0.8, "lost": 0.8, "other": 0.1})
    _, paper = with_mean(*tables, printed)
    np.testing.assert_allclose(paper.loc["mean"], [0.5, 0.3, 0.8])
    ours = tables[0].drop(index="a")
    _, paper = with_mean(ours, tables[1].drop(index="a"), printed[["all"]])
    assert np.isnan(paper.at["mean", "lost"])


def test_bars_show_ours_and_lines_the_paper(tables):
    axes = Figure().subplots()
    draw_comparison(axes, *tables)
    bars = [[bar.get_height() for bar in container] for container in axes.containers]
    np.testing.assert_allclose(bars, tables[0].T)
    lines = [segment for collection in axes.collections for segment in collection.get_segments()]
    assert len(lines) == tables[1].notna().sum().sum()
    np.testing.assert_allclose(lines[0][:, 1], 0.3)
    # Across the first bar, and not much wider.
    left, width = axes.containers[0][0].get_x(), axes.containers[0][0].get_width()
    assert left - 0.1 * width < lines[0][0, 0] < left < left + width < lines[0][1, 0] < left + 1.1 * width
    assert [text for text in axes.get_legend_handles_labels()[1] if text == "paper"] == ["paper"]
