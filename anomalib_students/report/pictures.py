"""The pictures of the report as data URIs: charts, and images with anomaly maps and outlines of the ground truth."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.ndimage import binary_dilation

from .measures import Curve
from .results import OUTCOMES, ImageResult

COLOUR_MAP = "inferno"  # Ordered by lightness, also for the colour-blind and in print.
FIRST_COLOUR = 0.3  # Where in the colour map the colours begin: darker ones would not be seen on a dark image.
OPACITY = 0.85  # Opacity of the highest scores in a map over an image. The lowest are transparent.
GROUND_TRUTH = "#56b4e9"
"""A blue that the colour map lacks, of the palette of Okabe and Ito, which the colour-blind can distinguish."""
CLASSES = {False: ("good", "#0072b2"), True: ("defective", "#d55e00")}
"""Names and colours in charts, of the same palette."""
FOREGROUND = "#010203"
"""Stands for the colour of the text, which is dark or light as the page is."""
STYLE = "svg{color:#333}@media(prefers-color-scheme:dark){svg{color:#ddd}}"
SETTINGS: dict[Any, Any] = {
    # In inches: letters of 9 points are as large as the text around the chart.
    "figure.figsize": (4.0, 3.0),
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color", "axes.edgecolor", "axes.labelcolor"), FOREGROUND),
}


class Scale(NamedTuple):
    """Colours of scores: transparent up to ``begin``, the same from ``end`` on, the threshold in the ``middle``."""

    begin: float
    middle: float | None
    end: float

    def places(self, scores: np.ndarray) -> np.ndarray:
        """Map scores to places in the colours, in ``[0, 1]``."""
        if self.middle is None:
            return np.interp(scores, [self.begin, self.end], [0, 1])
        places = np.interp(scores, [self.begin, self.middle, self.end], [0, 0.5, 1])
        # Below the middle they rise with the root of the score, so that slight anomalies can be seen.
        return np.where(places < 0.5, np.sqrt(places / 2), places)


@mpl.rc_context(SETTINGS)
def draw_histogram(results: Sequence[ImageResult], threshold: float | None) -> str:
    """Draw a histogram of the scores of good and of defective images."""
    scores = np.array([result.score for result in results])
    truth = np.array([result.is_defective for result in results])
    lowest, highest = scores.min(), scores.max()
    if threshold is not None:
        lowest, highest = min(lowest, threshold), max(highest, threshold)
    edges = np.linspace(lowest, highest if highest > lowest else lowest + 1, 33)
    figure = Figure()
    axes = figure.subplots()
    for label, (name, colour) in CLASSES.items():
        if (truth == label).any():
            shown = scores[truth == label]
            axes.hist(shown, list(edges), color=colour, alpha=0.7, label=f"{name} ({len(shown)})")
    if threshold is not None:
        axes.axvline(threshold, color=FOREGROUND, linestyle="--", linewidth=1.2, label=f"threshold {threshold:.2f}")
    axes.set(xlabel="score", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.2, columnspacing=1)
    return _svg_uri(figure)


@mpl.rc_context(SETTINGS)
def draw_roc(curve: Curve, threshold: tuple[Any, Any] | None) -> str:
    """Draw an ROC curve, perhaps with a point at the threshold."""
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FOREGROUND, linewidth=0.8, linestyle=":", label="chance")
    if threshold is not None:
        axes.plot(*threshold, "o", color=CLASSES[True][1], label="at the threshold", clip_on=False, zorder=3)
    axes.plot(curve.fpr, curve.values, color=CLASSES[False][1], label=f"AUROC {curve.area:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false alarms among good images", ylabel="found of defective images")
    axes.grid(color=FOREGROUND, alpha=0.15)
    axes.legend(loc="lower right")
    return _svg_uri(figure)


def _svg_uri(figure: Figure) -> str:
    content = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    themed = content.getvalue().replace(FOREGROUND, "currentColor").replace("</style>", f"{STYLE}</style>", 1)
    return _data_uri(themed.encode(), "svg+xml")


def in_order(results: Sequence[ImageResult]) -> list[ImageResult]:
    """Sort images by their outcomes and the clearest mistakes; without a threshold, by descending scores."""
    order = list(OUTCOMES.values())

    def key(result: ImageResult) -> tuple[int, float]:
        if result.is_alarm is None:
            return 0, -result.score
        return order.index(result.outcome), result.score if result.is_defective else -result.score

    return sorted(results, key=key)


def map_scale(results: Sequence[ImageResult], threshold: float | None) -> Scale | None:
    """Choose the colours of all maps: from what few pixels of good images reach to 1, or to the highest scores."""
    maps = [(result.is_defective, result.anomaly_map) for result in results if result.anomaly_map is not None]
    if not maps:
        return None
    good = [scores for is_defective, scores in maps if not is_defective]
    begin = float(np.median([np.percentile(scores, 99) for scores in good or [scores for _, scores in maps]]))
    if threshold is not None and 0 < threshold < 1:
        return Scale(begin if begin < threshold else 0, threshold, 1)
    highest = max(float(np.percentile(scores, 99.9)) for _, scores in maps)
    return Scale(begin, None, highest if highest > begin else begin + 1)


def make_card(result: ImageResult, scale: Scale | None) -> dict[str, object]:
    """Draw an image, its map in the colours of the scale and the outline of its ground truth."""
    height, width = result.picture.shape[:2]
    card = {"result": result, "width": width, "height": height, "heat": None, "outline": None}
    card["picture"] = _image_uri(Image.fromarray(result.picture), "jpeg")
    if result.anomaly_map is not None and scale is not None:
        heat = overlay(result.picture, result.anomaly_map.numpy(), scale)
        card["heat"] = _image_uri(Image.fromarray(heat), "jpeg")
    if result.mask is not None and result.mask.any():
        card["outline"] = outline_uri(result.mask.numpy(), (height, width))
    return card


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, scale: Scale) -> np.ndarray:
    """Lay an anomaly map ``(H, W)`` over a picture ``(h, w, 3)``: higher scores are brighter and more opaque."""
    height, width = picture.shape[:2]
    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    places = scale.places(np.asarray(resized))
    opacity = OPACITY * np.sqrt(places[..., None])
    return ((1 - opacity) * picture + opacity * _colour(places)).round().astype(np.uint8)


def outline_uri(mask: np.ndarray, size: tuple[int, int]) -> str:
    """Draw the outline of a mask ``(H, W)`` at a height and width, on a transparent ground."""
    # What is marked stays marked if it gets smaller.
    reduced = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)) > 0
    edge = binary_dilation(reduced) & ~reduced
    picture = Image.fromarray(edge.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, *(round(255 * channel) for channel in mpl.colors.to_rgb(GROUND_TRUTH))])
    return _image_uri(picture, "png", transparency=0)


def colour_stops() -> list[str]:
    """Sample the colours of a map from the lowest to the highest score, as CSS with opacity."""
    places = np.linspace(0, 1, 21)
    return [
        f"rgb({red:.0f} {green:.0f} {blue:.0f} / {OPACITY * place**0.5:.2f})"
        for (red, green, blue), place in zip(_colour(places), places, strict=True)
    ]


def _image_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    content = io.BytesIO()
    # 170 images with their maps take about 5 MB.
    picture.save(content, format=kind, optimize=True, quality=80, **options)
    return _data_uri(content.getvalue(), kind)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _colour(places: np.ndarray) -> np.ndarray:
    """Return the colours ``(..., 3)`` in ``0`` to ``255`` at places of shape ``(...)``."""
    return mpl.colormaps[COLOUR_MAP](FIRST_COLOUR + (1 - FIRST_COLOUR) * places)[..., :3] * 255
