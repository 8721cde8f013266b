"""Small pictures for the report: images, anomaly maps over them, and outlines of the ground truth."""

import base64
import io

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from PIL import Image
from scipy.ndimage import binary_dilation

from anomalib_students.figures.panels import COLOUR_MAP, GROUND_TRUTH

__all__ = ["colour_stops", "data_uri", "jpeg_uri", "outline_uri", "overlay", "thumbnail"]

SIDE = 256
"""Longer side of a picture in pixels, at most."""
QUALITY = 80
"""Quality of the JPEG files: 170 images with their maps take about 5 MB."""
OPACITY = 0.85
"""Opacity of the highest scores in a map over an image. The lowest are transparent."""
N_STOPS = 21


def data_uri(content: bytes, kind: str) -> str:
    """Put a file into a URI.

    Args:
        content: Content of the file.
        kind: Media type, such as ``"image/jpeg"``.

    Returns:
        URI for the ``src`` of an image.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an image, unless it is small.

    Args:
        image: RGB image of shape ``(H, W, 3)`` in ``[0, 1]``.

    Returns:
        Image of shape ``(h, w, 3)`` in ``0`` to ``255``, whose sides are at most 256.
    """
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def jpeg_uri(picture: np.ndarray) -> str:
    """Encode a picture as JPEG.

    Args:
        picture: RGB image of shape ``(h, w, 3)`` in ``0`` to ``255``.

    Returns:
        Data URI.
    """
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=QUALITY, optimize=True)
    return data_uri(content.getvalue(), "image/jpeg")


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, colours: Normalize) -> np.ndarray:
    """Lay an anomaly map over a picture: the higher a score, the brighter and the less transparent.

    Args:
        picture: RGB image of shape ``(h, w, 3)`` in ``0`` to ``255``.
        anomaly_map: Anomaly map of shape ``(H, W)``.
        colours: Maps scores to places in the colour map, in ``[0, 1]``.

    Returns:
        RGB image of shape ``(h, w, 3)`` in ``0`` to ``255``.
    """
    height, width = picture.shape[:2]
    places = np.asarray(colours(anomaly_map), dtype=np.float32)
    heat = np.asarray(Image.fromarray(places).resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    colour = mpl.colormaps[COLOUR_MAP](heat)[..., :3] * 255
    opacity = _opacity(heat)[..., None]
    return ((1 - opacity) * picture + opacity * colour).round().astype(np.uint8)


def outline_uri(mask: np.ndarray, size: tuple[int, int]) -> str:
    """Draw the outline of the ground truth around what it marks, on a transparent ground.

    Args:
        mask: Ground truth of shape ``(H, W)``, with some anomalous pixels.
        size: Height and width of the picture over which it is shown.

    Returns:
        Data URI of a PNG file.
    """
    # Whatever is marked stays marked if it gets smaller.
    reduced = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)) > 0
    edge = binary_dilation(reduced) & ~reduced
    picture = Image.fromarray(edge.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, *(round(255 * part) for part in mpl.colors.to_rgb(GROUND_TRUTH))])
    content = io.BytesIO()
    picture.save(content, format="PNG", transparency=0, optimize=True)
    return data_uri(content.getvalue(), "image/png")


def colour_stops() -> list[str]:
    """Sample the colours of a map, with their opacity.

    Returns:
        Colours of CSS, from the lowest to the highest score.
    """
    places = np.linspace(0, 1, N_STOPS)
    colours = (mpl.colormaps[COLOUR_MAP](places)[:, :3] * 255).round().astype(int)
    return [
        f"rgb({red} {green} {blue} / {opacity:.2f})"
        for (red, green, blue), opacity in zip(colours, _opacity(places), strict=True)
    ]


def _opacity(places: np.ndarray) -> np.ndarray:
    """Let an image be seen where its scores are low."""
    return OPACITY * places
