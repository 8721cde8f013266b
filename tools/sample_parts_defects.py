"""The sample part's defects: what each does to the surface, from hardly visible to obvious.

A defect changes geometry or material and never the picture, so light, shadow and blur fall on it as on the part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sample_parts_surface import (
    BOLT_CIRCLE_RADIUS,
    GOOD_BOLT_CIRCLE,
    IMAGE_SIZE,
    NUM_BOLT_HOLES,
    PART_RADIUS,
    SUPERSAMPLING,
    Array,
    BoltHole,
    PartScene,
    Surface,
    build_surface,
    stroke_distance,
)
from scipy import ndimage

Defect = Callable[[Surface, PartScene, np.random.Generator, float], Surface]

# From hardly visible to obvious.
FAULTY_HOLES = (
    BoltHole(chamfer=3.4),
    BoltHole(chamfer=1.0),
    BoltHole(offset=(1.6, 0.8)),
    BoltHole(chamfer=0.0),
    BoltHole(radius=6.6),
    BoltHole(offset=(-2.5, 3.5)),
    BoltHole(radius=0.0, chamfer=4.0),
    BoltHole(radius=0.0, chamfer=0.0),
)
FIBRE_COLOURS = ((0.02, 0.025, 0.05), (0.45, 0.03, 0.03), (0.75, 0.74, 0.70), (0.03, 0.10, 0.35), (0.03, 0.03, 0.03))
STAIN_COLOURS = (
    (0.62, 0.50, 0.33),
    (0.55, 0.55, 0.58),
    (0.60, 0.36, 0.22),
    (0.62, 0.60, 0.80),
)  # oil, grease, rust, heat


def scratch(surface: Surface, scene: PartScene, rng: np.random.Generator, severity: float) -> Surface:
    """A groove with raised shoulders, slightly bent, pressed hardest somewhere in its middle."""
    start = _place_on_face(rng)
    length = 14.0 + 60.0 * severity * rng.uniform(0.6, 1.2)
    points = _curl(rng, start, length=length, steps=10, bend=0.08)
    pressure = np.sin(np.linspace(0.12, np.pi - 0.12, len(points))) ** 0.5
    distance = stroke_distance(surface.x, surface.y, points, (0.75 + 0.6 * severity) * pressure)
    groove = np.maximum(1.0 - distance**2, 0.0)
    shoulder = np.exp(-(((distance - 1.5) / 0.45) ** 2))
    depth = 0.22 + 0.75 * severity
    return replace(
        surface,
        height=surface.height - depth * groove + 0.3 * depth * shoulder,
        matt=surface.matt + (0.10 + 0.45 * severity) * groove,
    )


def dent(surface: Surface, scene: PartScene, rng: np.random.Generator, severity: float) -> Surface:
    """A blow: a dimple on the face, or a nick out of the rim."""
    return (_nick if rng.random() < 0.4 else _dimple)(surface, rng, severity)


def stain(surface: Surface, scene: PartScene, rng: np.random.Generator, severity: float) -> Surface:
    """A film of oil, grease, rust or tarnish with a ragged edge, on which it has dried darker."""
    centre = _place_on_face(rng)
    size = 6.0 + 15.0 * severity * rng.uniform(0.7, 1.2)
    colour = STAIN_COLOURS[rng.integers(len(STAIN_COLOURS))]
    x, y = surface.x - centre[0], surface.y - centre[1]
    angle, elongation = rng.uniform(0.0, np.pi), rng.uniform(1.0, 1.6)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.hypot(along / elongation, across * elongation) / size
    ragged = 0.28 * _cloud(rng, 5.0 + 0.2 * size) + 0.07 * _cloud(rng, 2.0)
    # Ragged towards the edge only: whatever the noise is, something of the stain is left.
    inside = 1.0 - distance + ragged * np.minimum(distance, 1.0)
    film = np.clip(inside * size / 2.5, 0.0, 1.0)
    dried = np.exp(-(((inside * size - 2.5) / 1.6) ** 2))
    strength = np.clip((0.2 + 0.58 * severity) * film * (0.8 + 0.15 * _cloud(rng, 4.0)) + 0.12 * dried * film, 0.0, 1.0)
    return replace(
        surface,
        film=strength,
        film_colour=colour,
        gloss=surface.gloss * (1.0 - 0.35 * strength),
    )


def fibre(surface: Surface, scene: PartScene, rng: np.random.Generator, severity: float) -> Surface:
    """A thread or hair that lies on the part, with its shadow."""
    colour = FIBRE_COLOURS[rng.integers(len(FIBRE_COLOURS))]
    length = 16.0 + 60.0 * severity * rng.uniform(0.7, 1.1)
    points = _curl(rng, _place_on_face(rng), length=length, steps=26, bend=0.24)
    half_width = 0.38 + 0.42 * severity
    opacity = 0.6 + 0.35 * severity
    thread = _line(stroke_distance(surface.x, surface.y, points), half_width)
    light = scene.light_azimuth - scene.angle
    lift = 1.1
    shadow_points = points - lift * np.array([np.cos(light), np.sin(light)])
    shadow = _line(stroke_distance(surface.x, surface.y, shadow_points), 2.2 * half_width)
    return replace(
        surface,
        cover=opacity * thread,
        cover_colour=colour,
        shade=surface.shade * (1.0 - 0.4 * opacity * shadow),
    )


def faulty_hole(surface: Surface, scene: PartScene, rng: np.random.Generator, severity: float) -> Surface:
    """A hole that is countersunk wrongly, off its place, too small, only started, or missing."""
    position = int(rng.integers(NUM_BOLT_HOLES))
    fault = FAULTY_HOLES[round(severity * (len(FAULTY_HOLES) - 1))]
    return build_surface(scene, (*GOOD_BOLT_CIRCLE[:position], fault, *GOOD_BOLT_CIRCLE[position + 1 :]))


DEFECTS: dict[str, Defect] = {
    "dent": dent,
    "faulty_hole": faulty_hole,
    "fibre": fibre,
    "scratch": scratch,
    "stain": stain,
}


def _dimple(surface: Surface, rng: np.random.Generator, severity: float) -> Surface:
    centre = _place_on_face(rng)
    size = 3.5 + 8.0 * severity * rng.uniform(0.8, 1.2)
    angle, elongation = rng.uniform(0.0, np.pi), rng.uniform(1.0, 1.35)
    x, y = surface.x - centre[0], surface.y - centre[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.hypot(along / elongation, across * elongation) / size
    distance = distance * (1.0 + 0.06 * _cloud(rng, 3.0))
    depth = size * (0.08 + 0.13 * severity)
    hollow = np.maximum(1.0 - distance**2, 0.0) ** 1.5
    raised = np.exp(-(((distance - 1.12) / 0.16) ** 2))
    crushed = np.clip(2.0 * hollow, 0.0, 1.0)
    return replace(
        surface,
        height=surface.height - depth * hollow + 0.10 * depth * raised,
        gloss=surface.gloss * (1.0 - 0.25 * crushed),
        matt=surface.matt + 0.08 * crushed,
    )


def _nick(surface: Surface, rng: np.random.Generator, severity: float) -> Surface:
    angle = rng.uniform(-np.pi, np.pi)
    width = 3.5 + 9.0 * severity * rng.uniform(0.7, 1.2)
    reach = 2.2 + 5.0 * severity
    turned = np.mod(surface.phi - angle + np.pi, 2.0 * np.pi) - np.pi
    rough = _cloud(rng, 1.2)
    profile = np.maximum(1.0 - (turned * PART_RADIUS / width) ** 2, 0.0) ** 0.7
    # The break starts at this radius and gets as deep as it's wide; its lowest part is gone.
    from_edge = surface.radius - (PART_RADIUS - reach * profile) + 0.35 * rough * (profile > 0.0)
    broken = np.clip(from_edge, 0.0, None) * (profile > 0.0)
    gone = np.clip((from_edge - 0.55 * reach) * SUPERSAMPLING, 0.0, 1.0) * (profile > 0.0)
    fresh = np.clip(2.0 * broken, 0.0, 1.0)
    return replace(
        surface,
        height=surface.height - 0.8 * broken + 0.35 * rough * fresh,
        metal=surface.metal * (1.0 - gone),
        gloss=surface.gloss * (1.0 - 0.6 * fresh),
        matt=surface.matt + 0.22 * fresh * (1.0 + 0.4 * rough),
    )


def _place_on_face(rng: np.random.Generator, clearance: float = 16.0) -> Array:
    """A place on the hub or the face, ``(2,)``, at least ``clearance`` from the bolt holes' centres."""
    while True:
        radius, phi = rng.uniform(33.0, 96.0), rng.uniform(-np.pi, np.pi)
        place = radius * np.array([np.cos(phi), np.sin(phi)])
        hole = np.rint(phi / (2.0 * np.pi / NUM_BOLT_HOLES)) * (2.0 * np.pi / NUM_BOLT_HOLES)
        centre = BOLT_CIRCLE_RADIUS * np.array([np.cos(hole), np.sin(hole)])
        if np.hypot(*(place - centre)) >= clearance:
            return place


def _curl(rng: np.random.Generator, middle: Array, length: float, steps: int, bend: float) -> Array:
    """A line of random curvature around a place, ``(steps + 1, 2)``; ``bend`` is its turn per step in radians."""
    curvature = rng.normal(0.0, 0.3 * bend) + 2.0 * ndimage.gaussian_filter1d(rng.normal(0.0, bend, steps), 2.0)
    direction = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(curvature)
    moves = np.stack([np.cos(direction), np.sin(direction)], axis=1) * (length / steps)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    return points - points[steps // 2] + middle


def _line(distance: Array, half_width: float) -> Array:
    """Coverage by a line with an edge that is soft over a fine pixel."""
    return np.clip((half_width - distance) * SUPERSAMPLING + 0.5, 0.0, 1.0)


def _cloud(rng: np.random.Generator, size: float) -> Array:
    """Smooth noise of unit variance on the fine grid, in patches of about ``size``."""
    noise = ndimage.gaussian_filter(rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE)), size, mode="wrap")
    noise /= noise.std()
    return np.repeat(np.repeat(noise, SUPERSAMPLING, axis=0), SUPERSAMPLING, axis=1)
