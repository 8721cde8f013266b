"""Small pictures for the report: images, anomaly maps over them, and outlines of the ground truth."""

import base64
import io
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

__all__ = [
    "COLOUR_MAP",
    "GROUND_TRUTH",
    "Scale",
    "colour_stops",
    "data_uri",
    "jpeg_uri",
    "outline_uri",
    "overlay",
    "thumbnail",
]

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


def data_uri(content: bytes, kind: str) -> str:
    """Encode a file of a media type, such as ``"image/jpeg"``, as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an RGB image ``(H, W, 3)`` in ``[0, 1]`` to sides of at most 256 pixels, in ``0`` to ``255``."""
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def jpeg_uri(picture: np.ndarray) -> str:
    """Encode an RGB picture ``(h, w, 3)`` in ``0`` to ``255`` as JPEG, in a data URI."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=QUALITY, optimize=True)
    return data_uri(content.getvalue(), "image/jpeg")


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


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, scale: Scale) -> np.ndarray:
    """Lay an anomaly map ``(H, W)`` over a picture ``(h, w, 3)``: higher scores are brighter and more opaque."""
    height, width = picture.shape[:2]
    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    places = scale.places(np.asarray(resized))
    colour, opacity = _colour(places), OPACITY * np.sqrt(places[..., None])
    return ((1 - opacity) * picture + opacity * colour).round().astype(np.uint8)


def outline_uri(mask: np.ndarray, size: tuple[int, int]) -> str:
    """Draw the outline of a mask ``(H, W)`` at a height and width, as a data URI of a transparent PNG file."""
    # Whatever is marked stays marked if it gets smaller.
    reduced = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)) > 0
    edge = binary_dilation(reduced) & ~reduced
    picture = Image.fromarray(edge.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, *(round(255 * part) for part in mpl.colors.to_rgb(GROUND_TRUTH))])
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


def _colour(places: np.ndarray) -> np.ndarray:
    """Return the colours ``(..., 3)`` in ``0`` to ``255`` at places of shape ``(...)``."""
    return mpl.colormaps[COLOUR_MAP](FIRST_COLOUR + (1 - FIRST_COLOUR) * places)[..., :3] * 255
