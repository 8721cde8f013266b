"""Images that anomalib misreads, or whose errors do not name the file.

anomalib 2.7 reads grey images of 16 bits as all white, and leaves the name of a damaged file out of its errors. Its
data sets and inferencers read images by the functions of the module ``anomalib.data.utils.image``, and its visualizer
by another module. Both open files by the name ``Image``, which here becomes a module with another ``open``.
"""

from types import ModuleType

from PIL import Image

from anomalib_students.image_files import open_image

from .patching import change

__all__ = ["read_by_ours"]

READERS = ("anomalib.data.utils.image", "anomalib.visualization.image.item_visualizer")
"""Modules of anomalib that open image files."""


def read_by_ours() -> None:
    """Let anomalib open image files by :func:`~anomalib_students.image_files.open_image`."""
    for reader in READERS:
        change(
            reader,
            "Image",
            _replace_open,
            otherwise="it may read grey images of 16 bits as white, and not name damaged images",
        )


def _replace_open(module: ModuleType) -> None:
    pillow = ModuleType(Image.__name__, Image.__doc__)
    vars(pillow).update({**vars(Image), "open": open_image})
    vars(module)["Image"] = pillow
