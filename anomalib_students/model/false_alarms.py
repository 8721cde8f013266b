"""Thresholds for a rate of false alarms, from only good images.

The score of an image is a maximum, over its windows or its pixels, and maxima approximately follow Gumbel's
distribution. It is fitted to the scores of the held-out good images. A few of them give only rough estimates of
location and scale, so that the quantile of the fitted distribution would be exceeded too often: the threshold lies
further out, so that the expected rate, over all samples of that size, is the wanted one.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Gumbel", "Margin", "fit_gumbel", "is_usual", "margin"]

EULER = 0.5772156649
SAMPLES = 20_000
"""Samples of good images that are drawn to find a margin: the rate is then right to 2 %."""
LARGEST_SAMPLE = 500
"""Margins for more images hardly differ from the margin for this number, which is used instead."""
INTERVAL = (0.05, 0.95)
RELATIVE_FLOOR = 0.02
"""Least scale as a fraction of the location, for images that hardly differ."""
QUARTILES = (0.25, 0.5, 0.75)
OUTLIER_RATE = 1e-4
"""Rate at which good images would score as high as those that are taken for mislabelled."""
FEWEST_FOR_OUTLIERS = 10
"""Fewest images whose quartiles show what is usual."""
FEWEST = 5
"""Fewest images whose own spread is trusted."""
ASSUMED_SCALE = 0.25
"""Scale as a fraction of the location, assumed for fewer images."""


class Gumbel(NamedTuple):
    """Distribution of the scores of good images.

    Attributes:
        location: Its mode.
        scale: Its scale, positive.
    """

    location: float
    scale: float


class Margin(NamedTuple):
    """How far a threshold lies above the location.

    Attributes:
        scales: Distance, in scales.
        lower: Rate of false alarms that is exceeded with a probability of 95 %.
        upper: Rate that is exceeded with a probability of 5 %.
    """

    scales: float
    lower: float
    upper: float


def is_usual(scores: torch.Tensor) -> torch.Tensor:
    """Distinguish the scores of good images from those of images that are probably not good.

    One defective image among thirty good ones would double the threshold, but hardly changes quartiles. An outlier
    scores as high as one of 10,000 images of the Gumbel distribution with the same quartiles.

    Args:
        scores: Scores of images that are labelled good, of shape ``(n,)``.

    Returns:
        Whether each is usual, of the same shape; all of fewer than ten are.
    """
    if len(scores) < FEWEST_FOR_OUTLIERS:
        return torch.ones_like(scores, dtype=torch.bool)
    levels = torch.tensor(QUARTILES, dtype=torch.float64, device=scores.device)
    lower, median, upper = scores.double().quantile(levels).tolist()
    heights = [-math.log(-math.log(level)) for level in QUARTILES]
    scale = max((upper - lower) / (heights[2] - heights[0]), RELATIVE_FLOOR * abs(median))
    location = median - heights[1] * scale
    return scores <= location - math.log(-math.log1p(-OUTLIER_RATE)) * scale


def fit_gumbel(scores: torch.Tensor) -> Gumbel:
    """Fit Gumbel's distribution by L-moments, which single outliers affect less than moments.

    Args:
        scores: Scores of good images, of shape ``(n,)`` with n at least 1. The spread of fewer than 5 is not trusted:
            a usual one is assumed.

    Returns:
        Location and scale.

    Raises:
        ValueError: If there are no scores, or one is not finite.
    """
    ordered = scores.double().flatten().sort().values
    n = len(ordered)
    if n == 0 or not ordered.isfinite().all():
        msg = f"A threshold needs the finite scores of at least one good image, got {n} scores."
        raise ValueError(msg)
    mean = float(ordered.mean())
    if n < FEWEST:
        return Gumbel(mean, ASSUMED_SCALE * abs(mean))
    # Twice the probability-weighted moment, less the mean, is the second L-moment.
    spread = 2 * float((ordered * torch.arange(n)).sum()) / (n * (n - 1)) - mean
    scale = spread / math.log(2)
    location = mean - EULER * scale
    return Gumbel(location, max(scale, RELATIVE_FLOOR * abs(location)))


@cache
def margin(n_images: int, rate: float) -> Margin:
    """Find the distance of a threshold for a rate of false alarms.

    What is estimated from a sample, in units of the true scale, does not depend on the true location and scale, so that
    one simulation holds for all.

    Args:
        n_images: Number of good images that the distribution was fitted to.
        rate: Expected rate of false alarms, in ``(0, 1)``.

    Returns:
        The distance, and the interval that the rate of a single training lies in with a probability of 90 %. For fewer
        than 5 images, whose spread is assumed, nothing is known of it.

    Raises:
        ValueError: If the rate is out of range.
    """
    if not 0 < rate < 1:
        msg = f"false_alarm_rate must lie between 0 and 1, got {rate}."
        raise ValueError(msg)
    if n_images < FEWEST:
        return Margin(-math.log(-math.log1p(-rate)), 0.0, 1.0)
    location, scale = _estimates(min(n_images, LARGEST_SAMPLE))
    low, high = -10.0, 1e4
    while high - low > 1e-6 * max(1.0, abs(low)):
        middle = (low + high) / 2
        low, high = (middle, high) if _rates(location, scale, middle).mean() > rate else (low, middle)
    lower, upper = np.quantile(_rates(location, scale, high), INTERVAL)
    return Margin(high, float(lower), float(upper))


def _rates(location: np.ndarray, scale: np.ndarray, scales: float) -> np.ndarray:
    """True rates of false alarms of the thresholds from the samples."""
    return -np.expm1(-np.exp(-(location + scales * scale)))


@cache
def _estimates(n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of location and scale from samples of the standard distribution."""
    generator = np.random.default_rng(0)
    means, spreads = [], []
    weights = (2 * np.arange(n_images) / (n_images - 1) - 1) / n_images
    for _ in range(10):
        sample = np.sort(generator.gumbel(size=(SAMPLES // 10, n_images)), axis=1)
        means.append(sample.mean(axis=1))
        spreads.append(sample @ weights)
    scale = np.concatenate(spreads) / math.log(2)
    return np.concatenate(means) - EULER * scale, scale
