"""The command ``embedding``: descriptors of images in the plane, and the histogram of their scores (Figure 4)."""

from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import smacof
from sklearn.metrics import pairwise_distances, roc_auc_score

from anomalib_students.files import check_output
from reproduction.one_class.data import DATA_SETS, Data, OneClass, class_names, read_one_class
from reproduction.one_class.students import PatchStudents
from reproduction.one_class.tables import PATCH_SIZE, load_bundled_teacher

from .maps import save

__all__ = ["Embedding", "draw_embedding", "embed", "embedding"]

SIZE = (8.3, 3.6)
"""Width and height of a figure in inches."""
CLASSES = {False: ("normal", "#0072b2"), True: ("anomalous", "#d55e00")}
"""Names and colours, which the colour-blind can distinguish: of the palette of Okabe and Ito."""
N_BINS = 60
SHOWN = (0.01, 99.5)
"""Percentiles of the scores of both classes between which the histogram lies."""


class Embedding(NamedTuple):
    """Descriptors of n images in the plane: teacher and mean of the students, each of shape ``(n, 2)``.

    ``stress`` is Kruskal's stress-1: how far the distances in the plane are from those of the descriptors. 0 is
    perfect, 0.1 fair and 0.2 poor.
    """

    teacher: np.ndarray
    students: np.ndarray
    stress: float


def embedding(
    students: Path,
    output: Path,
    data: Data,
    normal_class: int | str,
    root: Path = DATA_SETS,
    n_images: int = 5,
    test_limit: int | None = 2000,
    seed: int = 0,
    dpi: int = 150,
) -> None:
    """Draw descriptors of normal and anomalous images in the plane, and a histogram of the scores (Figure 4).

    The descriptors of the teacher and the means of the students are embedded by multidimensional scaling. The larger
    the circle around the mean of the students, the less they agree.

    Args:
        students: The file students.pt that ``one-class`` has written, with the bundled teacher.
        output: PNG file to write.
        data: Data set.
        normal_class: Class that the students were trained on, by name or number.
        root: Folder with the data set as torchvision keeps it; torchvision downloads it to the default.
        n_images: Images of each class whose descriptors are shown.
        test_limit: Most test images that are scored.
        seed: Seed of the draw.
        dpi: Pixels per inch; the figure is 8.3 inches wide.

    Raises:
        OSError: If students or data are missing, or the output cannot be written.
        ValueError: If there is no such class.
    """
    check_output(output, ".png", "A figure")
    (name,) = class_names(data, [normal_class])
    images = read_one_class(data, root, name, PATCH_SIZE, train_limit=0, test_limit=test_limit, seed=seed)
    state = torch.load(students, map_location="cpu", weights_only=True)
    n_students = len({key.split(".")[1] for key in state if key.startswith("students.")})
    model = PatchStudents(load_bundled_teacher(), n_students)
    model.load_state_dict(state)
    save(draw_embedding(model, images, n_images), output, dpi)


def embed(teacher: np.ndarray, students: np.ndarray) -> Embedding:
    """Embed descriptors ``(n, d)`` of teacher and students together by multidimensional scaling.

    Metric scaling (SMACOF) moves the points until their distances are as close as possible to those of the descriptors.
    It starts from classical scaling, the projection on the first two principal components, so that the result does not
    depend on chance.
    """
    descriptors = np.concatenate([teacher, students]).astype(np.float64)
    places, stress = smacof(
        pairwise_distances(descriptors),
        n_components=2,
        init=PCA(2).fit_transform(descriptors),
        n_init=1,
        normalized_stress=True,
    )
    return Embedding(places[: len(teacher)], places[len(teacher) :], float(stress))


@torch.no_grad()
def draw_embedding(model: PatchStudents, images: OneClass, n_images: int) -> Figure:
    """Draw the embedding of the first ``n_images`` of each class, and beside it the histogram of all scores.

    A point is the teacher's descriptor of an image, the end of its line the mean of the students', and the radius of
    the circle around that the square root of the predictive uncertainty (eq. 10): the root mean square of the students'
    distances from their mean, in the units of the axes.
    """
    chosen = torch.cat([(images.is_anomalous == label).nonzero().flatten()[:n_images] for label in CLASSES])
    students, teacher = (descriptors.flatten(-3) for descriptors in model.describe(images.test[chosen]))
    points = embed(teacher.numpy(), students.mean(dim=0).numpy())
    radii = model.errors(images.test[chosen])[1].sqrt().numpy()
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_descriptors(left, points, radii, images.is_anomalous[chosen].numpy())
        _draw_histogram(right, model.score(images.test).numpy(), images.is_anomalous.numpy())
    return figure


def _draw_descriptors(axes: Axes, points: Embedding, radii: np.ndarray, is_anomalous: np.ndarray) -> None:
    for label, (text, colour) in CLASSES.items():
        chosen = is_anomalous == label
        teacher, students = points.teacher[chosen], points.students[chosen]
        circles = EllipseCollection(
            2 * radii[chosen],
            2 * radii[chosen],
            np.zeros(len(teacher)),
            units="xy",
            offsets=students,
            offset_transform=axes.transData,
            facecolor=mpl.colors.to_rgba(colour, 0.12),
            edgecolor=mpl.colors.to_rgba(colour, 0.6),
            linewidth=0.7,
        )
        axes.add_collection(circles)
        axes.add_collection(LineCollection(list(np.stack([teacher, students], axis=1)), colors=colour, linewidths=0.6))
        axes.plot(*teacher.T, "o", color=colour, markersize=3.5, markeredgewidth=0, label=f"teacher, {text}")
    axes.plot([], [], "o", color="0.4", fillstyle="none", markersize=9, label="students")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(f"Descriptors of {len(radii)} images (stress {points.stress:.2f})")
    axes.set_axis_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, columnspacing=1, frameon=False)


def _draw_histogram(axes: Axes, scores: np.ndarray, is_anomalous: np.ndarray) -> None:
    ends = np.array([np.percentile(scores[is_anomalous == label], SHOWN) for label in CLASSES])
    bins = np.linspace(ends[:, 0].min(), ends[:, 1].max(), N_BINS + 1)
    for label, (text, colour) in CLASSES.items():
        values = scores[is_anomalous == label].clip(bins[0], bins[-1])
        axes.hist(values, list(bins), density=True, color=colour, alpha=0.5, label=text)
    axes.set_title(f"Scores of {len(scores):,} images (AUROC {roc_auc_score(is_anomalous, scores):.3f})")
    axes.set_xlabel("anomaly score")
    axes.set_ylabel("density")
    axes.legend(loc="upper right", frameon=False)
