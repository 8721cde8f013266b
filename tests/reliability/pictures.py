"""Image files of all kinds, sound and damaged."""

import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 40
SOUND = (
    "rgb.png",
    "rgb.jpg",
    "rgb.bmp",
    "rgb.tiff",
    "grey.png",
    "grey16.png",
    "grey16.tiff",
    "alpha.png",
    "palette.png",
)
"""Names of sound files, by which :func:`write_picture` knows what to write."""
DAMAGED = (
    *("empty.png", "text.png", "truncated.png", "truncated.jpg", "truncated.bmp", "truncated.tiff", "broken.png"),
    *("bomb.png", "float.tiff", "wide.tiff"),
)
"""Names of files that can't be read."""


def pattern():
    """Grey pixels of all brightnesses, of shape (40, 40) in bytes."""
    return np.linspace(0, 255, SIDE * SIDE).round().astype(np.uint8).reshape(SIDE, SIDE)


def write_picture(name, path):
    """Write the file of a name: what it shows is the same grey pattern in all."""
    kind, suffix = name.split(".")
    grey = pattern()
    rgb = Image.fromarray(np.stack([grey] * 3, axis=-1))
    content = {
        "grey": lambda: Image.fromarray(grey),
        "grey16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "alpha": lambda: rgb.convert("RGBA"),
        "palette": lambda: Image.fromarray(grey).convert("P"),
        "float": lambda: Image.fromarray(grey.astype(np.float32)),
        "wide": lambda: Image.fromarray(grey.astype(np.int32) * 100_000),
    }.get(kind, lambda: rgb)
    path = path.with_suffix(f".{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    content().save(path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    whole = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no image")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) * 6 // 10])
    elif kind == "broken":
        path.write_bytes(whole[:100] + bytes(40) + whole[140:])
    elif kind == "bomb":
        # A header that promises more than Pillow decodes.
        header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + whole[24:29]
        path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    return path


def write_inspection(folder):
    """A category in MVTec AD's layout."""
    for name in ("train/good/000", "train/good/001", "test/good/000", "test/bent/000", "test/bent/001"):
        write_picture("rgb.png", folder / name)
    for number in range(2):
        write_mask(folder / f"ground_truth/bent/00{number}_mask.png")
    return folder


def write_mask(path, width=SIDE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(SIDE, width, dtype=np.uint8) * 255).save(path)
