"""The descriptor embedding and the histogram of the scores, as Figure 4 of the paper."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import smacof
from sklearn.metrics import pairwise_distances, roc_auc_score

from .pixels import Pixels, PixelSampler

__all__ = ["Embedding", "draw_embedding", "embed"]

SIZE = (8.3, 3.6)
"""Width of a figure, and height for each scale, in inches."""
CLASSES = {False: ("normal", "#0072b2"), True: ("anomalous", "#d55e00")}
"""Names and colours, which the colour-blind can distinguish: of the palette of Okabe and Ito."""
N_BINS = 60
SHOWN = (0.01, 99.5)
"""Percentiles of the scores of both classes between which the histogram lies."""


class Embedding(NamedTuple):
    """Descriptors of n pixels in the plane: teacher and mean of the students, each of shape ``(n, 2)``.

    ``stress`` is Kruskal's stress-1: how far the distances in the plane are from those of the descriptors. 0 is
    perfect, 0.1 fair and 0.2 poor.
    """

    teacher: np.ndarray
    students: np.ndarray
    stress: float


def embed(pixels: Pixels) -> Embedding:
    """Embed the descriptors of teacher and students together by multidimensional scaling.

    Metric scaling (SMACOF) moves the points until their distances are as close as possible to those of the descriptors.
    It starts from classical scaling, the projection on the first two principal components, so that the result does not
    depend on chance. Raises a ``ValueError`` for less than two pixels.
    """
    n_pixels = len(pixels.score)
    if n_pixels < 2:
        msg = f"An embedding needs at least two points, got {n_pixels}."
        raise ValueError(msg)
    descriptors = np.concatenate([pixels.teacher, pixels.students]).astype(np.float64)
    places, stress = smacof(
        pairwise_distances(descriptors),
        n_components=2,
        init=PCA(2).fit_transform(descriptors),
        n_init=1,
        normalized_stress=True,
    )
    return Embedding(places[:n_pixels], places[n_pixels:], float(stress))


def draw_embedding(scales: Mapping[str, PixelSampler], what: Literal["pixels", "images"] = "pixels") -> Figure:
    """Draw the embedding of the drawn pixels of each named scale, and beside it the histogram of all scores.

    A point is the teacher's descriptor of a pixel, the end of its line the mean of the students', and the radius of the
    circle around that the square root of the predictive uncertainty (eq. 10): the root mean square of the students'
    distances from their mean, in the units of the axes.
    """
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(SIZE[0], SIZE[1] * len(scales)), layout="constrained")
        grid = figure.subplots(len(scales), 2, squeeze=False)
        for (left, right), (name, sampler) in zip(grid, scales.items(), strict=True):
            _draw_descriptors(left, sampler.drawn, name, what)
            _draw_histogram(right, {label: sampler.scores(label) for label in CLASSES}, name, what)
    return figure


def _draw_descriptors(axes: Axes, pixels: Pixels, name: str, what: str) -> None:
    embedding = embed(pixels)
    for label, (text, colour) in CLASSES.items():
        chosen = np.flatnonzero(pixels.is_anomalous == label)
        teacher, students = embedding.teacher[chosen], embedding.students[chosen]
        diameters = 2 * np.sqrt(pixels.uncertainty[chosen])
        axes.add_collection(
            EllipseCollection(
                diameters,
                diameters,
                np.zeros(len(chosen)),
                units="xy",
                offsets=students,
                offset_transform=axes.transData,
                facecolor=mpl.colors.to_rgba(colour, 0.12),
                edgecolor=mpl.colors.to_rgba(colour, 0.6),
                linewidth=0.7,
            )
        )
        axes.add_collection(LineCollection(list(np.stack([teacher, students], axis=1)), colors=colour, linewidths=0.6))
        axes.plot(*teacher.T, "o", color=colour, markersize=3.5, markeredgewidth=0, label=f"teacher, {text}")
    axes.plot([], [], "o", color="0.4", fillstyle="none", markersize=9, label="students")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(f"{name}: descriptors of {len(pixels.score)} {what} (stress {embedding.stress:.2f})")
    axes.set_axis_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, columnspacing=1, frameon=False)


def _draw_histogram(axes: Axes, scores: Mapping[bool, np.ndarray], name: str, what: str) -> None:
    ends = [np.percentile(values, SHOWN) for values in scores.values() if len(values)]
    bins = np.linspace(min(low for low, _ in ends), max(high for _, high in ends), N_BINS + 1)
    for label, (text, colour) in CLASSES.items():
        values = scores[label]
        if len(values):
            axes.hist(values.clip(bins[0], bins[-1]), list(bins), density=True, color=colour, alpha=0.5, label=text)
    title = f"{name}: scores of {sum(map(len, scores.values())):,} {what}"
    if all(len(values) for values in scores.values()):
        truth = np.repeat(list(scores), [len(values) for values in scores.values()])
        title += f" (AUROC {roc_auc_score(truth, np.concatenate(list(scores.values()))):.3f})"
    axes.set_title(title)
    axes.set_xlabel("anomaly score")
    axes.set_ylabel("density")
    axes.legend(loc="upper right", frameon=False)
