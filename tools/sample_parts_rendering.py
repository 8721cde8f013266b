"""A picture of the sample part: light on its surface, then the camera."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sample_parts_surface import (
    IMAGE_SIZE,
    PART_RADIUS,
    SUPERSAMPLING,
    Array,
    PartScene,
    Surface,
    fine_axis,
)
from scipy import ndimage

Vector = tuple[Array, Array, Array]

# Red, green, blue.
STEEL = (0.60, 0.585, 0.565)
MAT = (0.066, 0.074, 0.082)
LIGHT_HEIGHT = 420.0
SKY_AZIMUTH = 2.6
# Roughness along and across the turning marks: the ratio of the two makes the fans of light on a turned face.
ALONG, ACROSS = 0.155, 0.36


class _Light(NamedTuple):
    """A lamp at ``LIGHT_HEIGHT``; ``along`` and ``across`` are the widths of its reflection about the marks."""

    azimuth: float
    distance: float
    power: float
    along: float
    across: float


def render(surface: Surface, scene: PartScene) -> Array:
    """Renders a surface, without the sensor's noise.

    Args:
        surface: The part's maps on the fine grid.
        scene: Lights and camera.

    Returns:
        Picture ``(256, 256, 3)`` in [0, 1], gamma-encoded RGB.
    """
    linear = np.stack([_expose(radiance) for radiance in _shade(surface, scene)], axis=-1)
    linear *= _evenness(scene)[..., None] * np.array([1.0 + scene.warmth, 1.0, 1.0 - scene.warmth])
    # A soft shoulder, as a camera's tone curve has, keeps structure in the highlights.
    toned = linear * (1.0 + linear / 2.2) / (1.0 + linear)
    return np.clip(toned, 0.0, 1.0) ** (1.0 / 2.2)


def add_noise(picture: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Adds shot and read noise, and quantises to eight bits.

    Args:
        picture: Picture ``(H, W, 3)`` in [0, 1].
        rng: Source of the noise.

    Returns:
        Picture ``(H, W, 3)``.
    """
    # Gamma encoding evens shot noise out over the grey values; demosaicing correlates it a little.
    noise = rng.standard_normal(picture.shape)
    noise = 0.7 * noise + 0.3 * ndimage.gaussian_filter(noise, (0.7, 0.7, 0.0)) * 2.0
    luminance_noise = rng.standard_normal(picture.shape[:2])[..., None]
    noisy = picture + 0.0055 * noise + 0.005 * luminance_noise
    return np.clip(np.rint(noisy * 255.0), 0.0, 255.0).astype(np.uint8)


def _shade(surface: Surface, scene: PartScene) -> Iterator[Array]:
    """Linear radiance on the fine grid, ``(H, W)``: red, then green, then blue."""
    axis = fine_axis()
    x, y = axis[None, :], -axis[:, None]
    level_light = np.zeros_like(surface.height)
    for light in _lights(scene):
        direction, received = _illuminate(light, x, y)
        level_light += received * direction[2]

    part = surface.metal > 0.0
    metal = np.zeros_like(surface.height)
    metal[part] = _metal(surface, scene, part, *(np.broadcast_to(places, part.shape)[part] for places in (x, y)))
    mat = scene.mat * _mat_light(surface, scene) * (0.45 + 0.55 * level_light)
    below = np.where(surface.radius < PART_RADIUS - 4.0, 0.09 * scene.mat, mat)
    covering = 0.35 + 0.75 * level_light

    colours = zip(STEEL, MAT, surface.film_colour, surface.cover_colour, strict=True)
    for steel_colour, mat_colour, film_colour, cover_colour in colours:
        radiance = mat_colour * below
        radiance += surface.wall * (steel_colour - radiance)
        radiance += surface.metal * (metal * (steel_colour * (1.0 - (1.0 - film_colour) * surface.film)) - radiance)
        radiance += surface.cover * (cover_colour * covering - radiance)
        yield radiance


def _lights(scene: PartScene) -> tuple[_Light, _Light]:
    key, second, _ = scene.light_powers
    return (
        _Light(scene.light_azimuth, scene.light_distance, 1.25 * key, ALONG, ACROSS),
        _Light(scene.light_azimuth - 2.2, 300.0, 0.55 * second, 1.9 * ALONG, 1.1 * ACROSS),
    )


def _illuminate(light: _Light, x: Array, y: Array) -> tuple[Vector, Array]:
    """Direction to a light and the power received from it, at places of the image's frame."""
    towards_x = light.distance * np.cos(light.azimuth) - x
    towards_y = light.distance * np.sin(light.azimuth) - y
    squared = towards_x**2 + towards_y**2 + LIGHT_HEIGHT**2
    norm = np.sqrt(squared)
    received = light.power * (LIGHT_HEIGHT**2 + light.distance**2) / squared
    return (towards_x / norm, towards_y / norm, LIGHT_HEIGHT / norm), received


def _metal(surface: Surface, scene: PartScene, part: NDArray[np.bool_], x: Array, y: Array) -> Array:
    """Radiance of the metal, before its colour, at the places ``part``: in the image's frame ``x``, ``y``."""
    normal, tangent, binormal = _frame(surface, scene, part)
    reflected, scattered = np.zeros_like(x), np.zeros_like(x)
    for light in _lights(scene):
        direction, received = _illuminate(light, x, y)
        cosine = np.maximum(_dot(normal, direction), 0.0)
        half = (direction[0], direction[1], direction[2] + 1.0)
        # Ward's lobe: narrow along the marks, wide across them.
        deviation = (_dot(half, tangent) / light.along) ** 2 + (_dot(half, binormal) / light.across) ** 2
        lobe = np.exp(-deviation / np.maximum(_dot(normal, half), 1e-3) ** 2)
        reflected += received * lobe * np.sqrt(cosine / np.maximum(normal[2], 0.2))
        scattered += received * cosine
    sky = 0.09 + 0.13 * (normal[0] * np.cos(SKY_AZIMUTH) + normal[1] * np.sin(SKY_AZIMUTH)) + 0.05 * normal[2]
    radiance = 1.9 * surface.gloss[part] * reflected + surface.matt[part] * (0.55 * scattered + 0.1)
    radiance += np.maximum(scene.light_powers[2] * sky, 0.015)
    return radiance * surface.shade[part] * (1.0 + 0.11 * scene.grain[part])


def _frame(surface: Surface, scene: PartScene, part: NDArray[np.bool_]) -> tuple[Vector, Vector, Vector]:
    """Normal, tangent along the turning marks and binormal across them, as x, y, z in the image's frame (y up)."""
    down, right = (np.gradient(surface.height, 1.0 / SUPERSAMPLING, axis=axis)[part] for axis in (0, 1))
    length = np.sqrt(right**2 + down**2 + 1.0)
    normal = (-right / length, down / length, 1.0 / length)
    phi = surface.phi[part] + scene.angle
    level = (-np.sin(phi), np.cos(phi))
    # The marks follow the slope: take the share along the normal away.
    share = normal[0] * level[0] + normal[1] * level[1]
    length = np.sqrt(np.maximum(1.0 - share**2, 1e-6))
    tangent = (
        (level[0] - share * normal[0]) / length,
        (level[1] - share * normal[1]) / length,
        -share * normal[2] / length,
    )
    binormal = (
        normal[1] * tangent[2] - normal[2] * tangent[1],
        normal[2] * tangent[0] - normal[0] * tangent[2],
        normal[0] * tangent[1] - normal[1] * tangent[0],
    )
    return normal, tangent, binormal


def _dot(one: Vector, other: Vector) -> Array:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _mat_light(surface: Surface, scene: PartScene) -> Array:
    """Share of the light that gets past the part to the mat: its shadow, and the gap below its rim."""
    azimuth = scene.light_azimuth - scene.angle
    from_light = np.hypot(surface.x + 5.0 * np.cos(azimuth), surface.y + 5.0 * np.sin(azimuth))
    shadow = 0.30 + 0.70 * np.clip((from_light - PART_RADIUS + 3.0) / 9.0, 0.0, 1.0) ** 1.5
    gap = 0.55 + 0.45 * np.clip((surface.radius - PART_RADIUS) / 5.0, 0.0, 1.0)
    return shadow * gap


def _expose(radiance: Array) -> Array:
    """Blurs a colour as the lens does, and gathers the fine grid's light in the sensor's pixels."""
    blurred = ndimage.gaussian_filter(radiance, 0.4 * SUPERSAMPLING)
    offsets = range(SUPERSAMPLING)
    gathered = sum((blurred[i::SUPERSAMPLING, j::SUPERSAMPLING] for i in offsets for j in offsets), np.zeros(()))
    return gathered / SUPERSAMPLING**2


def _evenness(scene: PartScene) -> Array:
    """Gain of each pixel, ``(256, 256)``: exposure, light that comes rather from one side, darker corners."""
    axis = (np.arange(IMAGE_SIZE) + 0.5) / (IMAGE_SIZE / 2) - 1.0
    direction, strength = scene.gradient
    gradient = 1.0 + strength * (axis[None, :] * np.cos(direction) + axis[:, None] * np.sin(direction))
    return scene.exposure * gradient * (1.0 - 0.12 * (axis[None, :] ** 2 + axis[:, None] ** 2))
