"""Draw the figures of how_it_works.md: python docs/how_it_works.py.

The points are invented, the numbers beside them are what the package's own functions make of them. The histograms of
descriptors are of the default teacher on the embedded sample parts.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from anomalib_students.data import SampleParts
from anomalib_students.model.anomaly_map import normalised_score, predictive_uncertainty, regression_error
from anomalib_students.model.augment import paint_defects
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.teacher.losses import compactness_loss, distillation_loss, triplet_loss

ASSETS = Path(__file__).parent / "assets"
WIDTH = 8.3
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"


def main() -> None:
    """Draw all figures."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False})
    figures = {
        "teacher_equations": draw_teacher,
        "students_equations": draw_students,
        "scores_equations": draw_scores,
        "synthetic_defects": draw_painted,
    }
    for name, draw in figures.items():
        draw().savefig(ASSETS / f"{name}.png", dpi=120)


def draw_teacher() -> Figure:
    """What the teacher learns: eqs. 1 to 5."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    distil, triplet, redundant, compact = figure.subplots(1, 4, width_ratios=[1.2, 1.2, 1, 1])
    random = np.random.default_rng(1)

    target = random.normal(size=(9, 2))
    decoded = target + random.normal(scale=0.35, size=(9, 2))
    distil.plot(*np.stack([target, decoded], axis=1).T, color=GREY, linewidth=1)
    distil.scatter(*target.T, color=BLUE, label="source network", zorder=2)
    distil.scatter(*decoded.T, color=ORANGE, label="decoded teacher", zorder=2)
    loss = distillation_loss(*(torch.tensor(points, dtype=torch.float32) for points in (decoded, target)))
    _plane(distil, f"distillation (eq. 1)\n$L_k$ = {loss:.2f}")
    distil.set_ylim(-2.4, 2.2)
    distil.legend(loc="lower left", frameon=False, fontsize=7, borderpad=0, handletextpad=0.2)

    points = {"T(p)": (0.0, 0.0), "T(p$^+$)": (0.7, 0.25), "T(p$^-$)": (1.2, 0.75)}
    for (name, point), colour in zip(points.items(), (BLUE, GREEN, ORANGE), strict=True):
        triplet.scatter(*point, color=colour, zorder=2)
        triplet.annotate(name, point, xytext=(4, -11), textcoords="offset points", color=colour)
    anchor, positive, negative = points.values()
    triplet.plot(*zip(anchor, positive, strict=True), color=GREEN)
    triplet.plot(*zip(positive, negative, strict=True), color=ORANGE)
    triplet.plot(*zip(anchor, negative, strict=True), color=ORANGE, linestyle=":")
    loss = triplet_loss(*(torch.tensor([point]) for point in points.values()))
    _plane(triplet, f"metric learning (eqs. 2 to 4)\n$L_m$ = {loss:.2f}")
    triplet.set_xlim(-0.2, 1.7)
    triplet.set_ylim(-0.35, 1.0)

    independent = random.normal(size=(400, 12))
    mixed = independent @ random.normal(size=(12, 12)) ** 3
    for axes, name, values in ((redundant, "redundant", mixed), (compact, "compact", independent)):
        axes.imshow(np.abs(np.corrcoef(values.T)), cmap="Blues", vmin=0, vmax=1)
        loss = compactness_loss(torch.tensor(values, dtype=torch.float32))
        _plane(axes, f"{name} (eq. 5)\n$L_c$ = {loss:.0f}")
    return figure


def draw_students() -> Figure:
    """What the students learn: eq. 7."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    before, after, learning = figure.subplots(1, 3)
    descriptors = _descriptors()
    mean, std = descriptors.mean(dim=0), descriptors.std(dim=0)
    order = std.argsort()
    for index, colour in zip(order[[0, len(order) // 2, -1]], (BLUE, GREEN, ORANGE), strict=True):
        for axes, values in (
            (before, descriptors[:, index]),
            (after, (descriptors[:, index] - mean[index]) / std[index]),
        ):
            axes.hist(values.numpy(), bins=80, density=True, histtype="step", color=colour)
    before.set_title("three components of the\nteacher's descriptors $y^T$")
    after.set_title("the same, normalised:\n($y^T$ − $\\mu$) diag($\\sigma$)$^{-1}$")
    for axes in (before, after):
        axes.set_yticks([])
    after.set_xlim(-5, 5)

    teacher = np.array([1.0, 0.8])
    for start, colour in zip(([-1.0, 0.9], [0.2, -1.0], [1.9, -0.7]), (BLUE, GREEN, ORANGE), strict=True):
        path = [np.array(start)]
        random = np.random.default_rng(3)
        for _ in range(14):
            path.append(path[-1] + 0.22 * (teacher - path[-1]) + random.normal(scale=0.05, size=2))
        learning.plot(*np.stack(path).T, color=colour, marker=".", markersize=3, linewidth=1)
        learning.annotate("student", start, xytext=(-10, -10), textcoords="offset points", color=colour, fontsize=8)
    learning.scatter(*teacher, color="black", marker="*", s=80, zorder=3)
    learning.annotate("teacher", teacher, xytext=(4, 7), textcoords="offset points", fontsize=8)
    _plane(learning, "training on a good pixel: each\nstudent regresses the teacher (eq. 7)")
    learning.set_ylim(-1.35, 1.3)
    return figure


def draw_scores() -> Figure:
    """What a pixel is scored by: eqs. 8 to 11."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    good, bad, before, after = figure.subplots(1, 4)
    for axes, name, teacher, students in (
        (good, "good pixel", [1.0, 1.0], [[0.8, 1.15], [1.2, 0.85], [1.1, 1.25]]),
        (bad, "anomalous pixel", [2.2, 1.9], [[0.1, 0.9], [1.3, 0.1], [0.9, 1.5]]),
    ):
        members = torch.tensor(students)[:, None, :, None, None]
        error = regression_error(members, torch.tensor(teacher)[None, :, None, None]).item()
        uncertainty = predictive_uncertainty(members).item()
        mean = np.mean(students, axis=0)
        for student in students:
            axes.plot(*zip(mean, student, strict=True), color=ORANGE, linewidth=1)
        axes.plot(*zip(mean, teacher, strict=True), color=BLUE, linewidth=2)
        axes.scatter(*np.array(students).T, color=ORANGE, s=14, zorder=2, label="students")
        axes.scatter(*mean, facecolor="white", edgecolor=BLUE, s=30, zorder=3, label="their mean")
        axes.scatter(*teacher, color="black", marker="*", s=80, zorder=3, label="teacher")
        axes.set_xlim(-0.3, 2.5)
        axes.set_ylim(-0.3, 2.5)
        axes.set_aspect("equal")
        _plane(axes, f"{name} (eqs. 8 to 10)\ne = {error:.2f}, v = {uncertainty:.2f}")
    good.legend(loc="upper left", frameon=False, fontsize=7, borderpad=0, handletextpad=0.2)

    random = torch.Generator().manual_seed(0)
    shape = torch.randn(20_000, 6, generator=random).square().sum(dim=1)
    values = {"e": (4 * shape, BLUE), "v": (0.6 * torch.randn(20_000, 4, generator=random).square().sum(dim=1), ORANGE)}
    for name, (value, colour) in values.items():
        before.hist(value.numpy(), bins=80, density=True, histtype="step", color=colour, label=name)
        normalised = normalised_score(value, value.mean(), value.std())
        after.hist(normalised.numpy(), bins=80, density=True, histtype="step", color=colour)
    before.set_title("e and v of good pixels")
    before.set_xlim(0, 60)
    before.legend(frameon=False)
    after.set_title("on one scale, so that they can\nbe added (eq. 11)")
    after.set_xlim(-3, 6)
    for axes in (before, after):
        axes.set_yticks([])
    return figure


def draw_painted() -> Figure:
    """What students see in training, and the teacher does not."""
    figure = Figure(figsize=(WIDTH, 1.7), layout="constrained")
    image = _images()[:1]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    normalised = (image - mean) / std
    for axes, seed in zip(figure.subplots(1, 5), range(1, 6), strict=True):
        (painted,) = paint_defects(normalised, 1.0, torch.Generator().manual_seed(seed))
        axes.imshow((painted * std + mean).clamp(0, 1).movedim(0, -1))
        axes.set_axis_off()
    return figure


def _descriptors() -> torch.Tensor:
    """Descriptors of the default teacher for pixels of three sample parts, of shape (n, d)."""
    model = UninformedStudents()
    with torch.no_grad():
        # The patch network itself, every eighth pixel of the inside.
        descriptors = model.model.scales[0].teacher(model.pre_processor(_images()))
    return descriptors.movedim(1, -1).flatten(0, -2)


def _images() -> torch.Tensor:
    """Three sample parts."""
    datamodule = SampleParts()
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule.train_data.collate_fn([datamodule.train_data[index] for index in range(3)]).image


def _plane(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])


if __name__ == "__main__":
    main()
