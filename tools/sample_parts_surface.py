"""The sample part: the surface of a turned steel flange, as maps that a light can be put on.

Lengths are in pixels of the final image (the flange has a radius of 104), heights too; the maps themselves are
``SUPERSAMPLING`` times finer, so that edges and grooves come out smooth when the picture is averaged down.
Everything is computed in float64: at that precision the last bits, in which machines differ, don't reach the eight
bits of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

IMAGE_SIZE = 256
SUPERSAMPLING = 2

PART_RADIUS = 104.0
BORE_RADIUS = 26.0
BOLT_CIRCLE_RADIUS = 76.0
NUM_BOLT_HOLES = 6
BOLT_RING_WIDTH = 36.0  # holds the holes, even those off their place, and the markings
# A camera straight above sees the far end of a bore shrunk towards the image's centre, and with it some of the wall.
BORE_PERSPECTIVE = 0.055

# The contour that the part is turned to: radius, height.
CONTOUR = (
    (0.0, 1.5),
    (BORE_RADIUS, 1.5),
    (28.6, 4.0),  # chamfer of the bore
    (45.0, 4.0),  # hub
    (46.5, 3.2),
    (47.6, 0.0),  # foot of the hub
    (53.0, 0.0),
    (53.9, -1.6),  # groove of the seal
    (57.6, -1.6),
    (58.5, 0.0),
    (92.6, 0.0),
    (93.0, -0.35),  # scribed line
    (93.4, 0.0),
    (PART_RADIUS - 3.0, 0.0),
    (PART_RADIUS, -3.0),  # chamfer of the rim
    (200.0, -3.0),
)
CONTOUR_STEP = 0.05
TURNING_STEP = 0.125
TURNING_LENGTH = 1024
STREAK_SHAPE = (320, 128)  # radius, angle
STREAK_RADIUS = 128.0

# Text and the angle (degrees) of its middle on the bolt circle.
MARKINGS = (("DN50 PN16", 90.0), ("1.4404", 270.0))
GLYPH_HEIGHT = 7.0
GLYPH_ADVANCE = 5.6
# Single strokes on a grid of 4 x 6, as an engraving machine has them: x to the right, y up.
GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (((1, 0), (3, 0), (4, 1.5), (4, 4.5), (3, 6), (1, 6), (0, 4.5), (0, 1.5), (1, 0)),),
    "1": (((0.8, 4.8), (2.2, 6), (2.2, 0)),),
    "4": (((3, 0), (3, 6), (0, 2), (4, 2)),),
    "5": (((0, 0.4), (1.2, 0), (2.8, 0), (4, 1.2), (4, 2.6), (2.8, 3.6), (0.2, 3.4), (0.5, 6), (3.7, 6)),),
    "6": (((3.6, 6), (1.2, 4.6), (0, 2.4), (0, 1.2), (1, 0), (3, 0), (4, 1.2), (4, 2.4), (3, 3.5), (0.4, 3.1)),),
    "D": (((0, 0), (0, 6), (2.2, 6), (4, 4.4), (4, 1.6), (2.2, 0), (0, 0)),),
    "N": (((0, 0), (0, 6), (4, 0), (4, 6)),),
    "P": (((0, 0), (0, 6), (3, 6), (4, 5.2), (4, 3.6), (3, 2.8), (0, 2.8)),),
    ".": (((1.9, 0), (2.1, 0.3)),),
    " ": (),
}
MARKING_RESOLUTION = 8.0
MARKING_MARGIN = 4.0


@dataclass(frozen=True)
class BoltHole:
    """How one hole of the bolt circle was drilled.

    Attributes:
        radius: Radius of the bore; 0 for none.
        chamfer: Width of the countersink around the bore; without a bore, the radius of the drill tip's cone.
        offset: Displacement from the nominal centre, along the radius and along the bolt circle.
    """

    radius: float = 8.5
    chamfer: float = 2.4
    offset: tuple[float, float] = (0.0, 0.0)


BoltCircle = tuple[BoltHole, ...]
GOOD_BOLT_CIRCLE: BoltCircle = (BoltHole(),) * NUM_BOLT_HOLES


@dataclass(frozen=True)
class PartScene:
    """All that is random in one picture of a good part, but for the sensor's noise.

    Attributes:
        centre: Position of the part's axis relative to the image's centre, x and y (up).
        angle: Rotation of the part, in radians.
        scale: Size of the part relative to the nominal one.
        turning_marks: Height of the turning marks over the radius, every ``TURNING_STEP``.
        streaks: Irregularity of the cut over radius and angle, around 0, ``STREAK_SHAPE``.
        runout: Eccentricity of the turning marks, x and y.
        grain: Isotropic grain of the metal on the fine grid, around 0.
        mat: Brightness of the rubber mat below the part on the fine grid, around 1.
        marking_shift: Displacement of the markings, along the bolt circle and along the radius.
        marking_depth: Depth of the engraving relative to the nominal one.
        light_azimuth: Direction of the key light, in radians.
        light_distance: Distance of the key light from the axis.
        light_powers: Powers of key light, second light and room, around 1.
        gradient: Direction (radians) and strength of the uneven light, as a change over half an image.
        warmth: Shift of the colour temperature, positive is warmer.
        exposure: Gain of the camera, around 1.
    """

    centre: tuple[float, float]
    angle: float
    scale: float
    turning_marks: Array
    streaks: Array
    runout: tuple[float, float]
    grain: Array
    mat: Array
    marking_shift: tuple[float, float]
    marking_depth: float
    light_azimuth: float
    light_distance: float
    light_powers: tuple[float, float, float]
    gradient: tuple[float, float]
    warmth: float
    exposure: float


@dataclass(frozen=True)
class Surface:
    """Maps of what the camera looks at, each ``(H, W)`` on the fine grid but for the colours.

    Attributes:
        x: Position in the part's frame, to the right.
        y: Position in the part's frame, up.
        radius: Distance from the part's axis.
        phi: Angle in the part's frame, in radians.
        height: Height of the surface.
        metal: 1 where the part is, 0 where one looks past it or into a hole.
        wall: Brightness of a bore's wall where one is seen, else 0.
        shade: Share of the light that gets to the place.
        gloss: Strength of the directed reflection, 1 is machined metal.
        matt: Diffuse reflectance of the metal.
        film: Opacity of a film on the metal.
        film_colour: Colour by which the film multiplies the metal's reflection, RGB.
        cover: Opacity of foreign matter that lies on top.
        cover_colour: Its colour, RGB.
    """

    x: Array
    y: Array
    radius: Array
    phi: Array
    height: Array
    metal: Array
    wall: Array
    shade: Array
    gloss: Array
    matt: Array
    film: Array
    film_colour: Colour
    cover: Array
    cover_colour: Colour


def draw_scene(rng: np.random.Generator) -> PartScene:
    """Draws what differs from one picture of a good part to the next."""
    # A turning tool leaves its feed as a nearly periodic ripple, on which the machine's vibration lies.
    cut = rng.standard_normal(TURNING_LENGTH)
    ripple = 2.5 * ndimage.gaussian_filter1d(cut, 4.0) + 5.0 * ndimage.gaussian_filter1d(cut, 14.0)
    streaks = ndimage.gaussian_filter1d(rng.standard_normal(STREAK_SHAPE), 5.0, axis=1, mode="wrap")
    noise = rng.standard_normal((IMAGE_SIZE * SUPERSAMPLING, IMAGE_SIZE * SUPERSAMPLING))
    grain = ndimage.gaussian_filter(noise, 0.9, truncate=2.5)
    patches = ndimage.zoom(ndimage.gaussian_filter(noise[::8, ::8], 2.0), 8, order=1)
    return PartScene(
        centre=(float(rng.uniform(-3.5, 3.5)), float(rng.uniform(-3.5, 3.5))),
        angle=float(np.deg2rad(rng.uniform(-7.0, 7.0))),
        scale=float(rng.uniform(0.99, 1.01)),
        turning_marks=0.034 * ripple,
        streaks=4.0 * streaks,
        runout=(float(rng.normal(0.0, 0.4)), float(rng.normal(0.0, 0.4))),
        grain=grain,
        mat=np.maximum(1.0 + 0.38 * grain + 0.35 * patches, 0.2),
        marking_shift=(float(rng.normal(0.0, 0.5)), float(rng.normal(0.0, 0.3))),
        marking_depth=float(rng.uniform(0.85, 1.15)),
        light_azimuth=float(np.deg2rad(128.0 + rng.uniform(-14.0, 14.0))),
        light_distance=float(rng.uniform(330.0, 400.0)),
        light_powers=(float(rng.uniform(0.9, 1.1)), float(rng.uniform(0.8, 1.2)), float(rng.uniform(0.9, 1.1))),
        gradient=(float(rng.uniform(0.0, 2.0 * np.pi)), float(rng.uniform(0.02, 0.12))),
        warmth=float(rng.normal(0.0, 0.018)),
        exposure=float(rng.uniform(0.93, 1.07)),
    )


def build_surface(scene: PartScene, bolt_circle: BoltCircle = GOOD_BOLT_CIRCLE) -> Surface:
    """Builds the surface of an undamaged part.

    Args:
        scene: What is random in the picture.
        bolt_circle: How each of the ``NUM_BOLT_HOLES`` holes was drilled, counter-clockwise from the right.

    Returns:
        The part's maps.
    """
    x, y = part_coordinates(scene)
    radius, phi = np.hypot(x, y), np.arctan2(y, x)
    light = scene.light_azimuth - scene.angle
    bore_metal, wall = _bore(x, y, radius, light)
    metal = bore_metal * coverage(PART_RADIUS - radius)

    contour_radii, contour_heights, contour_shade = _contour()
    turned_radius = np.hypot(x - scene.runout[0], y - scene.runout[1])
    marks = np.interp(turned_radius, np.arange(TURNING_LENGTH) * TURNING_STEP, scene.turning_marks)
    streaks = _sample_streaks(scene.streaks, turned_radius, phi)
    height = np.interp(radius, contour_radii, contour_heights) + marks + 0.02 * streaks

    ring = np.abs(radius - BOLT_CIRCLE_RADIUS) < BOLT_RING_WIDTH / 2
    depth, drilled_metal, drilled_wall = _bolt_holes(radius[ring], phi[ring], bolt_circle, light)
    engraving, ring_ink = _markings(scene, radius[ring], phi[ring])
    ink = np.zeros_like(radius)
    ink[ring] = ring_ink
    height[ring] -= depth + 0.5 * scene.marking_depth * engraving
    metal[ring] *= drilled_metal
    wall[ring] += drilled_wall
    return Surface(
        x=x,
        y=y,
        radius=radius,
        phi=phi,
        height=height,
        metal=metal,
        wall=wall,
        shade=np.interp(radius, contour_radii, contour_shade) * (1.0 - 0.4 * ink),
        gloss=np.maximum(1.0 + 0.08 * streaks, 0.0) * (1.0 - 0.6 * ink),
        matt=0.30 * (1.0 - 0.3 * ink),
        film=np.zeros_like(radius),
        film_colour=(1.0, 1.0, 1.0),
        cover=np.zeros_like(radius),
        cover_colour=(0.0, 0.0, 0.0),
    )


def part_coordinates(scene: PartScene) -> tuple[Array, Array]:
    """Positions of the fine grid's pixels in the part's frame: x to the right, y up, both ``(H, W)``."""
    axis = fine_axis()
    image_x = (axis[None, :] - scene.centre[0]) / scene.scale
    image_y = (-axis[:, None] - scene.centre[1]) / scene.scale
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    return image_x * cos + image_y * sin, image_y * cos - image_x * sin


def fine_axis() -> Array:
    """Positions of the fine grid's pixels on either axis, from the image's centre."""
    return (np.arange(IMAGE_SIZE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - IMAGE_SIZE / 2


def coverage(distance: Array) -> Array:
    """Share of a fine pixel that a region covers, from the distance to the region's edge (positive inside)."""
    return np.clip(distance * SUPERSAMPLING + 0.5, 0.0, 1.0)


def stroke_distance(
    x: Array, y: Array, points: ArrayLike, widths: ArrayLike | None = None, reach: float = 4.0
) -> Array:
    """Distance of each place from a polyline.

    Args:
        x: Positions, any shape.
        y: Positions, the same shape.
        points: Corners of the line, ``(N, 2)``.
        widths: Half the line's width at each corner, ``(N,)``; 1 if None.
        reach: Distance up to which it's computed, for speed.

    Returns:
        Distances in the shape of ``x``, in units of the half width; inf beyond ``reach``.
    """
    corners = np.asarray(points, dtype=np.float64)
    half_widths = np.ones(len(corners)) if widths is None else np.asarray(widths, dtype=np.float64)
    (left, bottom), (right, top) = corners.min(axis=0) - reach, corners.max(axis=0) + reach
    near = (x > left) & (x < right) & (y > bottom) & (y < top)
    near_x, near_y = x[near], y[near]
    nearest = np.full(near_x.shape, np.inf)
    for (x0, y0), (x1, y1), w0, w1 in zip(corners[:-1], corners[1:], half_widths[:-1], half_widths[1:], strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((near_x - x0) * dx + (near_y - y0) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        distance = np.hypot(near_x - x0 - along * dx, near_y - y0 - along * dy)
        nearest = np.minimum(nearest, np.where(distance < reach, distance / (w0 + along * (w1 - w0)), np.inf))
    result = np.full(x.shape, np.inf)
    result[near] = nearest
    return result


def _bolt_holes(radius: Array, phi: Array, bolt_circle: BoltCircle, light: float) -> tuple[Array, Array, Array]:
    """Depth of the countersinks, coverage by metal, and brightness of the walls, for the whole bolt circle."""
    # Each place only sees the hole next to it, so all of them are folded onto one.
    pitch = 2.0 * np.pi / NUM_BOLT_HOLES
    turns = np.rint(phi / pitch)
    number = turns.astype(np.intp) % NUM_BOLT_HOLES
    columns = np.array([(hole.radius, hole.chamfer, *hole.offset) for hole in bolt_circle]).T
    bore, chamfer, offset_radial, offset_along = (column[number] for column in columns)
    angle = turns * pitch
    radial = radius * np.cos(phi - angle)
    along = radius * np.sin(phi - angle) - offset_along
    from_centre = radial - BOLT_CIRCLE_RADIUS - offset_radial
    distance = np.hypot(from_centre, along)

    depth = np.clip(bore + chamfer - distance, 0.0, chamfer)  # 45 degrees
    metal = np.where(bore > 0.0, coverage(distance - bore), 1.0)
    far_end = np.hypot(
        radial / (1.0 - BORE_PERSPECTIVE) - BOLT_CIRCLE_RADIUS - offset_radial,
        along / (1.0 - BORE_PERSPECTIVE),
    )
    inside = np.minimum(bore - distance, far_end - bore)
    wall = np.where(bore > 0.0, coverage(inside), 0.0)
    towards_axis = -(from_centre * np.cos(angle - light) - along * np.sin(angle - light)) / np.maximum(bore, 1.0)
    return depth, metal, wall * _wall_brightness(towards_axis)


def _bore(x: Array, y: Array, radius: Array, light: float) -> tuple[Array, Array]:
    """Coverage by metal and brightness of the wall of the bore in the middle."""
    wall = coverage(np.minimum(BORE_RADIUS - radius, radius - BORE_RADIUS * (1.0 - BORE_PERSPECTIVE)))
    towards_axis = -(x * np.cos(light) + y * np.sin(light)) / BORE_RADIUS
    return coverage(radius - BORE_RADIUS), wall * _wall_brightness(towards_axis)


def _wall_brightness(facing_light: Array) -> Array:
    """Brightness of a bore's wall, from the cosine between its normal and the light's azimuth."""
    return 0.10 + 0.50 * np.maximum(facing_light, 0.0) ** 2


def _sample_streaks(streaks: Array, radius: Array, phi: Array) -> Array:
    rows = radius * (STREAK_SHAPE[0] / STREAK_RADIUS)
    columns = (phi + np.pi) * (STREAK_SHAPE[1] / (2.0 * np.pi))
    return ndimage.map_coordinates(streaks, (rows, columns), order=1, mode="grid-wrap")


@lru_cache(maxsize=1)
def _contour() -> tuple[Array, Array, Array]:
    """Radii, the turned contour's height with its tool radii, and the share of light that gets down to it."""
    radii = np.arange(0.0, CONTOUR[-1][0], CONTOUR_STEP)
    heights = np.interp(radii, *np.array(CONTOUR).T)
    heights = ndimage.gaussian_filter1d(heights, 0.35 / CONTOUR_STEP)
    buried = np.maximum(ndimage.gaussian_filter1d(heights, 2.5 / CONTOUR_STEP) - heights, 0.0)
    return radii, heights, 1.0 - 0.55 * np.minimum(buried / 1.4, 1.0)


def _markings(scene: PartScene, radius: Array, phi: Array) -> tuple[Array, Array]:
    """Depth of the engraved markings and darkness of their ground, both from 0 to 1."""
    distance = np.full(radius.shape, MARKING_MARGIN)
    for text, middle in MARKINGS:
        table = _marking_table(text)
        # Above the centre the letters' feet point to it, below away from it: both can be read.
        upright = 1.0 if middle < 180.0 else -1.0
        turned = np.mod(np.deg2rad(middle) - phi + np.pi, 2.0 * np.pi) - np.pi
        along = upright * turned * BOLT_CIRCLE_RADIUS - scene.marking_shift[0]
        across = upright * (radius - BOLT_CIRCLE_RADIUS) - scene.marking_shift[1]
        places = [
            position * MARKING_RESOLUTION + (length - 1) / 2
            for position, length in zip((across, along), table.shape, strict=True)
        ]
        sampled = ndimage.map_coordinates(table, places, order=1, mode="constant", cval=MARKING_MARGIN)
        distance = np.minimum(distance, sampled)
    return np.clip(1.0 - distance / 0.85, 0.0, 1.0), np.clip(1.5 - distance * 1.5, 0.0, 1.0)


@lru_cache
def _marking_table(text: str) -> Array:
    """Distance to the strokes of ``text`` around its middle, rows upwards, ``MARKING_RESOLUTION`` rows per pixel."""
    unit = GLYPH_HEIGHT / 6.0
    width = GLYPH_ADVANCE * (len(text) - 1) + 4.0 * unit
    columns = np.arange(-width / 2 - MARKING_MARGIN, width / 2 + MARKING_MARGIN, 1.0 / MARKING_RESOLUTION)
    rows = np.arange(-GLYPH_HEIGHT / 2 - MARKING_MARGIN, GLYPH_HEIGHT / 2 + MARKING_MARGIN, 1.0 / MARKING_RESOLUTION)
    x, y = np.meshgrid(columns, rows)
    distance = np.full(x.shape, MARKING_MARGIN)
    for position, character in enumerate(text):
        origin = np.array([position * GLYPH_ADVANCE - width / 2, -GLYPH_HEIGHT / 2])
        for stroke in GLYPHS[character]:
            distance = np.minimum(distance, stroke_distance(x, y, np.array(stroke) * unit + origin))
    return distance
