"""The images of the report: their order, anomaly maps over them, and outlines of the ground truth."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

if TYPE_CHECKING:
    from .results import ImageResult

COLOUR_MAP = "inferno"
"""Ordered by lightness, also for the colour-blind and in print."""
GROUND_TRUTH = "#56b4e9"
"""A blue that the colour map lacks, of the palette of Okabe and Ito."""
SIDE = 256
"""Longer side of a picture in pixels, at most."""
QUALITY = 80
"""Quality of the JPEG files: 170 images with their maps take about 5 MB."""
OPACITY = 0.85
"""Opacity of the highest scores in a map over an image. The lowest are transparent."""
FIRST_COLOUR = 0.3
"""Where in the colour map the colours begin: darker ones would not be seen on a dark image."""
N_STOPS = 21
USUAL = 99
"""Percentile of the pixels of a good image at which the colours begin."""
HIGHEST = 99.9
"""Percentile of the scores at which the colours end if there is no threshold."""
OUTCOMES = ("false alarm", "missed", "found", "passed")
"""In the order in which they are shown."""


class Scale(NamedTuple):
    """Colours of scores: transparent up to ``begin``, the same from ``end`` on.

    ``middle`` is the threshold, in the middle of the colours; None if there is none.
    """

    begin: float
    middle: float | None
    end: float

    def places(self, scores: np.ndarray) -> np.ndarray:
        """Map scores to places in the colours, in ``[0, 1]``.

        Below the middle, places rise with the root of the score, so that slight anomalies can be seen.
        """
        if self.middle is None:
            return np.interp(scores, [self.begin, self.end], [0, 1])
        places = np.interp(scores, [self.begin, self.middle, self.end], [0, 0.5, 1])
        return np.where(places < 0.5, np.sqrt(places / 2), places)


def outcome_of(result: "ImageResult") -> str:
    """Return one of :data:`OUTCOMES`; without a threshold, ``"defective"`` or ``"good"``."""
    if result.is_alarm is None:
        return "defective" if result.is_defective else "good"
    false_alarm, missed, found, passed = OUTCOMES
    if result.is_defective:
        return found if result.is_alarm else missed
    return false_alarm if result.is_alarm else passed


def in_order(results: Sequence["ImageResult"]) -> list["ImageResult"]:
    """Sort images by their outcomes, among each the clearest mistakes and the closest decisions first.

    Without a threshold, the highest scores come first.
    """

    def key(result: "ImageResult") -> tuple[int, float]:
        if result.is_alarm is None:
            return 0, -result.score
        return OUTCOMES.index(outcome_of(result)), result.score if result.is_defective else -result.score

    return sorted(results, key=key)


def map_scale(results: Sequence["ImageResult"], threshold: float | None) -> Scale | None:
    """Choose the colours of all maps; None if there are no maps.

    They begin at the score that 99 % of the pixels of good images do not exceed, or of all images if none is good. They
    end at 1, or without a threshold, at the highest scores.
    """
    with_map = [result for result in results if result.anomaly_map is not None]
    if not with_map:
        return None
    good = [result for result in with_map if not result.is_defective]
    begin = float(np.median([np.percentile(each.anomaly_map, USUAL) for each in good or with_map]))  # type: ignore[arg-type]
    if threshold is not None and 0 < threshold < 1:
        return Scale(begin if begin < threshold else 0, threshold, 1)
    highest = max(float(np.percentile(each.anomaly_map, HIGHEST)) for each in with_map)  # type: ignore[arg-type]
    return Scale(begin, None, highest if highest > begin else begin + 1)


def make_card(result: "ImageResult", scale: Scale | None) -> dict[str, object]:
    """Draw an image, its map in the colours of the scale and the outline of its ground truth, as data URIs."""
    height, width = result.picture.shape[:2]
    heat = outline = None
    if result.anomaly_map is not None and scale is not None:
        heat = _jpeg_uri(overlay(result.picture, result.anomaly_map.numpy(), scale))
    if result.mask is not None and result.mask.any():
        outline = outline_uri(result.mask.numpy(), (height, width))
    pictures = {"picture": _jpeg_uri(result.picture), "heat": heat, "outline": outline}
    return {"result": result, "outcome": outcome_of(result), "width": width, "height": height, **pictures}


def data_uri(content: bytes, kind: str) -> str:
    """Encode a file of a media type, such as ``"image/jpeg"``, as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an RGB image ``(H, W, 3)`` in ``[0, 1]`` to sides of at most 256 pixels, in ``0`` to ``255``."""
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, scale: Scale) -> np.ndarray:
    """Lay an anomaly map ``(H, W)`` over a picture ``(h, w, 3)``: higher scores are brighter and more opaque."""
    height, width = picture.shape[:2]
    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    places = scale.places(np.asarray(resized))
    opacity = OPACITY * np.sqrt(places[..., None])
    return ((1 - opacity) * picture + opacity * _colour(places)).round().astype(np.uint8)


def outline_uri(mask: np.ndarray, size: tuple[int, int]) -> str:
    """Draw the outline of a mask ``(H, W)`` at a height and width, as a data URI of a transparent PNG file."""
    # Whatever is marked stays marked if it gets smaller.
    reduced = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)) > 0
    edge = binary_dilation(reduced) & ~reduced
    picture = Image.fromarray(edge.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, *(round(255 * channel) for channel in mpl.colors.to_rgb(GROUND_TRUTH))])
    content = io.BytesIO()
    picture.save(content, format="PNG", transparency=0, optimize=True)
    return data_uri(content.getvalue(), "image/png")


def colour_stops() -> list[str]:
    """Sample the colours of a map from the lowest to the highest score, as CSS with opacity."""
    places = np.linspace(0, 1, N_STOPS)
    return [
        f"rgb({red:.0f} {green:.0f} {blue:.0f} / {OPACITY * place**0.5:.2f})"
        for (red, green, blue), place in zip(_colour(places), places, strict=True)
    ]


def _jpeg_uri(picture: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=QUALITY, optimize=True)
    return data_uri(content.getvalue(), "image/jpeg")


def _colour(places: np.ndarray) -> np.ndarray:
    """Return the colours ``(..., 3)`` in ``0`` to ``255`` at places of shape ``(...)``."""
    return mpl.colormaps[COLOUR_MAP](FIRST_COLOUR + (1 - FIRST_COLOUR) * places)[..., :3] * 255
