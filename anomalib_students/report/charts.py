"""The figures of the report: histogram of the scores, ROC curve and PRO curve, as SVG."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .measures import FPR_LIMIT, Curve, Rate
from .pictures import data_uri
from .results import ImageResult

__all__ = ["draw_histogram", "draw_pro", "draw_roc"]

SIZE = (4.0, 3.0)
"""In inches: letters of 9 points are as large as the text around them."""
N_BINS = 32
REACH = 4.0
"""A histogram ends at 1, or at so many times the distance from the lowest score to the threshold if that is more. The
last bar has the rest."""
FOREGROUND = "#010203"
"""Stands for the colour of the text, which is dark or light as the page is."""
STYLE = "svg{color:#333}@media(prefers-color-scheme:dark){svg{color:#ddd}}"
CLASSES = {False: ("good", "#0072b2"), True: ("defective", "#d55e00")}
"""Names and colours, which the colour-blind can distinguish: of the palette of Okabe and Ito."""
SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **{f"{name}.color": FOREGROUND for name in ("text", "xtick", "ytick")},
    **{f"axes.{name}": FOREGROUND for name in ("edgecolor", "labelcolor", "titlecolor")},
}


def draw_histogram(results: Sequence[ImageResult], threshold: float | None) -> str:
    """Draw a histogram of the scores of good and of defective images, as a data URI."""
    scores = np.array([result.score for result in results])
    truth = np.array([result.is_defective for result in results])
    lowest, highest = scores.min(), scores.max()
    if threshold is not None:
        lowest = min(lowest, threshold)
        highest = max(min(highest, max(1, lowest + REACH * (threshold - lowest))), threshold)
    edges = np.linspace(lowest, highest if highest > lowest else lowest + 1, N_BINS + 1)
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure()
        for label, (name, colour) in CLASSES.items():
            if (truth == label).any():
                shown = scores[truth == label].clip(max=edges[-1])
                axes.hist(shown, list(edges), color=colour, alpha=0.7, label=f"{name} ({len(shown)})")
        if threshold is not None:
            axes.axvline(threshold, color=FOREGROUND, linestyle="--", linewidth=1.2, label=f"threshold {threshold:.2f}")
        is_cut = scores.max() > edges[-1]
        axes.set_xlabel(f"score (the last bar: up to {scores.max():.1f})" if is_cut else "score")
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=3, handlelength=1.2, columnspacing=1)
        return _svg_uri(figure)


def draw_roc(curve: Curve, recall: Rate | None, false_alarms: Rate | None) -> str:
    """Draw the ROC curve of the images as a data URI, with a point at the threshold if there is one."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=FOREGROUND, linewidth=0.8, linestyle=":", label="chance")
        if recall is not None and false_alarms is not None:
            x, y = (np.array([rate.value], dtype=float) for rate in (false_alarms, recall))
            axes.plot(x, y, "o", color=CLASSES[True][1], label="at the threshold", clip_on=False, zorder=3)
        labels = {"xlabel": "false alarms among good images", "ylabel": "found of defective images"}
        return _curve_uri(figure, axes, curve, f"AUROC {curve.area:.3f}", xlim=(0, 1), **labels)


def draw_pro(curve: Curve) -> str:
    """Draw the PRO curve of the anomaly maps, as a data URI."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure()
        labels = {"xlabel": "false positive rate of good pixels", "ylabel": "mean overlap with the defects"}
        return _curve_uri(figure, axes, curve, f"AUPRO {curve.area:.3f}", xlim=(0, FPR_LIMIT), **labels)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()


def _curve_uri(figure: Figure, axes: Axes, curve: Curve, label: str, **settings: Any) -> str:
    axes.plot(curve.fpr, curve.values, color=CLASSES[False][1], label=label)
    axes.set(ylim=(0, 1.01), **settings)
    axes.grid(color=FOREGROUND, alpha=0.15)
    axes.legend(loc="lower right")
    return _svg_uri(figure)


def _svg_uri(figure: Figure) -> str:
    content = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    themed = content.getvalue().replace(FOREGROUND, "currentColor").replace("</style>", f"{STYLE}</style>", 1)
    return data_uri(themed.encode(), "image/svg+xml")
