"""Render two textures with defects, in MVTec AD's layout: categories without a part, for ``detection.py``.

A woven cloth, and leather, whose grain is another in every image. Defects change the height and the colour of the
surface before it is lit: cuts, stains, presses, threads that lie on it, and worn places.

    python benchmarks/textures.py --output datasets/textures
    python benchmarks/detection.py --root datasets/textures --categories "[cloth,leather]"
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy import ndimage
from scipy.spatial import KDTree

Array = NDArray[np.float64]

SIDE = 320
THREAD = 9.0
"""Pitch of the cloth's threads in pixels."""
CELL = 10.0
"""Mean distance of the leather's cells in pixels."""
LIGHT = np.array([0.55, 0.35, 0.76])
"""Direction to the lamp."""
COUNTS = {"train/good": 60, "test/good": 30}
DEFECTIVE = 10
"""Test images of each defect."""
VISIBLE = 3 / 255
"""Change of a pixel from which it counts as defective."""


class Surface(NamedTuple):
    """Height in pixels ``(H, W)`` and colour in [0, 1] ``(H, W, 3)``."""

    height: Array
    colour: Array


Texture = Callable[[np.random.Generator, Array, Array], Surface]
"""Makes a surface at the coordinates ``y`` and ``x`` in pixels."""
Defect = Callable[[Surface, np.random.Generator], Surface]


def cloth(rng: np.random.Generator, y: Array, x: Array) -> Surface:
    """Plain weave of light and dark threads, which wander a little."""
    phases = rng.uniform(0, 2, 2)
    u = x / THREAD + phases[0] + 0.25 * cloud(rng, 60)
    v = y / THREAD + phases[1] + 0.25 * cloud(rng, 60)
    # Neighbouring threads rise and sink in turn.
    warp = round_thread(u) + 0.6 * np.sin(np.pi * (v + np.floor(u)))
    weft = round_thread(v) - 0.6 * np.sin(np.pi * (u + np.floor(v)))
    is_warp = warp > weft
    fibres = 0.08 * cloud(rng, 1.2)
    shade = np.where(is_warp, 0.62, 0.36) + 0.03 * cloud(rng, 30)
    colour = (shade + fibres)[..., None] * np.array([1.0, 0.96, 0.86])
    return Surface(2.2 * np.maximum(warp, weft) + fibres, colour)


def leather(rng: np.random.Generator, y: Array, x: Array) -> Surface:
    """Cells of random places and sizes between creases."""
    n_cells = int((SIDE + 4 * CELL) ** 2 / CELL**2)
    centres = rng.uniform(-2 * CELL, SIDE + 2 * CELL, (n_cells, 2))
    places = np.stack([y + 2 * cloud(rng, 12), x + 2 * cloud(rng, 12)], axis=-1)
    distances, _ = KDTree(centres).query(places, k=2)
    crease = np.exp(-((distances[..., 1] - distances[..., 0]) / 1.6))
    grain = 0.25 * cloud(rng, 1.5)
    shade = 0.42 + 0.03 * cloud(rng, 40) - 0.12 * crease
    return Surface(2.0 * (1 - crease) + grain, shade[..., None] * np.array([1.1, 0.75, 0.5]))


TEXTURES: dict[str, Texture] = {"cloth": cloth, "leather": leather}


def cut(surface: Surface, rng: np.random.Generator) -> Surface:
    """A crooked groove."""
    depth = line(rng, length=rng.uniform(20, 80), half_width=rng.uniform(0.8, 2), bend=0.15)
    return Surface(surface.height - rng.uniform(1.5, 4) * depth, surface.colour * (1 - 0.5 * depth[..., None]))


def stain(surface: Surface, rng: np.random.Generator) -> Surface:
    """A spot of another shade with a ragged edge."""
    spot = blob(rng, rng.uniform(6, 22))[..., None]
    tint = rng.choice([0.75, 1.25]) + rng.uniform(-0.08, 0.08, 3)
    return Surface(surface.height, surface.colour * (1 + spot * (tint - 1)))


def press(surface: Surface, rng: np.random.Generator) -> Surface:
    """A place that was squeezed or stretched: the texture is finer or coarser, and nothing else."""
    radius = rng.uniform(14, 34)
    y, x = grid()
    centre = rng.uniform(radius, SIDE - radius, 2)
    weight = np.exp(-(((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (0.5 * radius**2)))
    # A grain without direction would look the same if it were turned.
    factor = 1 + weight * rng.choice([rng.uniform(-0.6, -0.4), rng.uniform(0.5, 1)])
    places = [centre[0] + factor * (y - centre[0]), centre[1] + factor * (x - centre[1])]

    def bent(values: Array) -> Array:
        return ndimage.map_coordinates(values, places, order=1, mode="reflect")

    return Surface(
        bent(surface.height), np.stack([bent(channel) for channel in np.moveaxis(surface.colour, -1, 0)], -1)
    )


def thread(surface: Surface, rng: np.random.Generator) -> Surface:
    """A thread that lies on the surface."""
    cover = line(rng, length=rng.uniform(30, 110), half_width=rng.uniform(0.7, 1.5), bend=0.3)
    colour = rng.uniform(0.1, 0.9, 3)
    return Surface(surface.height + 2 * cover, surface.colour + 0.85 * cover[..., None] * (colour - surface.colour))


def worn(surface: Surface, rng: np.random.Generator) -> Surface:
    """A place where the texture is flattened."""
    spot = 0.9 * blob(rng, rng.uniform(8, 24))
    smooth = ndimage.gaussian_filter(surface.height, 5)
    colour = ndimage.gaussian_filter(surface.colour, (4, 4, 0))
    return Surface(
        surface.height + spot * (smooth - surface.height), surface.colour + spot[..., None] * (colour - surface.colour)
    )


DEFECTS: dict[str, Defect] = {"cut": cut, "stain": stain, "press": press, "thread": thread, "worn": worn}


def grid() -> tuple[Array, Array]:
    """Return the coordinates of all pixels."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    return y, x


def cloud(rng: np.random.Generator, size: float) -> Array:
    """Smooth random field of deviation 1, whose spots have the given size in pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), size, mode="wrap")
    return field / field.std()


def round_thread(position: Array) -> Array:
    """Height of a thread across its pitch, between 0 and 1."""
    return np.sqrt(np.maximum(1 - (2 * (position % 1) - 1) ** 2, 0))


def blob(rng: np.random.Generator, radius: float) -> Array:
    """Spot with a ragged, soft edge, between 0 and 1."""
    y, x = grid()
    centre = rng.uniform(radius, SIDE - radius, 2)
    distance = np.hypot(y - centre[0], x - centre[1]) / radius + 0.15 * cloud(rng, 0.4 * radius)
    return np.clip(1 + 8 / 3 * (1 - distance), 0, 1)


def line(rng: np.random.Generator, length: float, half_width: float, bend: float) -> Array:
    """Crooked line with soft edges, between 0 and 1."""
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, int(length / 2)))
    steps = 2 * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    path = np.cumsum(steps, axis=0)
    path += rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2) - path.mean(axis=0)
    points = np.concatenate([path + part * steps for part in (0, 0.25, 0.5, 0.75)])
    distances, _ = KDTree(points).query(np.stack(grid(), axis=-1))
    return np.clip(half_width + 0.5 - distances, 0, 1)


def lit(surface: Surface, exposure: float) -> Array:
    """Light the surface from one side, ``(H, W, 3)`` in [0, 1]."""
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(surface.height, 0.7))
    normal = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.maximum(normal @ LIGHT, 0)[..., None]
    return np.clip(exposure * surface.colour * (0.25 + light), 0, 1)


def render(texture: str, split: str, label: str, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Render an image and the mask of its defect, by random numbers that depend only on its name."""
    seeds = np.random.SeedSequence((zlib.crc32(f"{texture}/{split}/{label}".encode()), index)).spawn(3)
    rng, defect_rng, noise_rng = map(np.random.default_rng, seeds)
    surface = TEXTURES[texture](rng, *grid())
    exposure = rng.uniform(0.95, 1.05)
    image, mask = lit(surface, exposure), None
    if label != "good":
        damaged = lit(DEFECTS[label](surface, defect_rng), exposure)
        changed = np.abs(damaged - image).max(axis=-1) > VISIBLE
        closed = ndimage.binary_closing(np.pad(changed, 2), np.ones((5, 5)))[2:-2, 2:-2]
        image, mask = damaged, 255 * closed.astype(np.uint8)
    noisy = image + noise_rng.normal(0, 0.008, image.shape)
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8), mask


def textures(output: Path = Path("datasets/textures")) -> None:
    """Write both textures, each image and mask as PNG.

    Args:
        output: Folder of the data set.
    """
    counts = {**COUNTS, **{f"test/{defect}": DEFECTIVE for defect in DEFECTS}}
    names = [
        (texture, *kind.split("/"), index) for texture in TEXTURES for kind, n in counts.items() for index in range(n)
    ]
    for texture, split, label, index in track(names, "Rendering"):
        image, mask = render(texture, split, label, index)
        save(image, output / texture / split / label / f"{index:03d}.png")
        if mask is not None:
            save(mask, output / texture / "ground_truth" / label / f"{index:03d}_mask.png")


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Save an image, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_function_arguments(textures, as_group=False)
    textures(**vars(parser.parse_args()))
