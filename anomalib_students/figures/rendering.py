"""From a figure to the content of a file."""

import io

from matplotlib.figure import Figure

__all__ = ["png_bytes"]


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """Render a figure as a PNG file with so many pixels per inch."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
