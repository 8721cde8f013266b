"""Thresholds for a rate of false alarms, from only good images.

The score of an image is a maximum, over its windows or its pixels, and maxima approximately follow Gumbel's
distribution. Its location is that of the held-out good images. Images that the students have learnt from score lower,
but spread nearly as much, so that both give the scale. A few images give only rough estimates, so that the quantile of
the fitted distribution would be exceeded too often: the threshold lies further out, so that the expected rate, over all
samples of that size, is the wanted one.
"""

from functools import cache
from math import log
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import gumbel_r

SAMPLES = 20_000  # Samples of good images that are drawn to find a margin: the rate is then right to 2 %.
LARGEST_SAMPLE = 500  # Margins for more images hardly differ from the margin for this number, which is used instead.
RELATIVE_FLOOR = 0.02  # Least scale as a fraction of the location, for images that hardly differ.
QUARTILES = (0.25, 0.5, 0.75)
OUTLIER_RATE = 1e-4  # Of good images that score as high as those that are taken for mislabelled.
FEWEST_FOR_OUTLIERS = 10  # Images whose quartiles show what is usual.
FEWEST = 5  # Images whose own spread is trusted.
USUAL_SCALE = 0.25  # As a fraction of the location, assumed for fewer images.


class Gumbel(NamedTuple):
    """Distribution of the scores of good images: its mode, and its positive scale."""

    location: float
    scale: float


class Margin(NamedTuple):
    """Distance of a threshold from the location, in scales, and rates exceeded with a probability of 95 and 5 %."""

    scales: float
    lower: float
    upper: float


def is_usual(scores: torch.Tensor) -> torch.Tensor:
    """Distinguish the scores of good images from those of images that are probably not good.

    One defective image among thirty good ones would double the threshold, but hardly changes quartiles. An outlier
    scores as high as one of 10,000 images of the Gumbel distribution with these.

    Args:
        scores: Scores of images that are labelled good, of shape ``(n,)``.

    Returns:
        Whether each is usual, of the same shape; all of fewer than ten are.
    """
    if len(scores) < FEWEST_FOR_OUTLIERS:
        return torch.ones_like(scores, dtype=torch.bool)
    lower, median, upper = scores.double().quantile(torch.tensor(QUARTILES).to(scores.device, torch.float64)).tolist()
    heights = gumbel_r.ppf(QUARTILES)
    scale = max((upper - lower) / (heights[2] - heights[0]), RELATIVE_FLOOR * abs(median))
    return scores <= float(median + (gumbel_r.isf(OUTLIER_RATE) - heights[1]) * scale)


def fit_gumbel(scores: torch.Tensor, learnt: torch.Tensor | None = None) -> Gumbel:
    """Fit Gumbel's distribution by L-moments, which single outliers affect less than moments.

    Args:
        scores: Scores of good images, of shape ``(n,)`` with n at least 1. The spread of fewer than 5 is not trusted:
            a usual one is assumed.
        learnt: Scores of good images that were learnt from, of shape ``(m,)``: their scale counts too, with a quarter
            of the distance between the means added, as the lower scores are, the less they spread.

    Raises:
        ValueError: If there are no scores, or one is not finite.
    """
    if len(scores) == 0 or not scores.isfinite().all():
        raise ValueError(f"A threshold needs the finite scores of at least one good image, got {len(scores)} scores.")
    if len(scores) < FEWEST:
        mean = float(scores.double().mean())
        return Gumbel(mean, USUAL_SCALE * abs(mean))
    others = scores[:0] if learnt is None else learnt
    location, scale = map(float, _fit(scores.double().numpy(), others.double().numpy()))
    return Gumbel(location, max(scale, RELATIVE_FLOOR * abs(location)))


@cache
def margin(n_images: int, rate: float, n_learnt: int = 0) -> Margin:
    """Find the distance of a threshold for a rate of false alarms.

    What is estimated from a sample, in units of the true scale, does not depend on the true location and scale, so that
    one simulation holds for all.

    Args:
        n_images: Number of good images that the distribution was fitted to.
        rate: Expected rate of false alarms, in ``(0, 1)``.
        n_learnt: Number of further images that only the scale was fitted to.

    Returns:
        The distance, and the interval that the rate of a single training lies in with a probability of 90 %. For fewer
        than 5 images, whose spread is assumed, nothing is known of it.

    Raises:
        ValueError: If the rate is out of range.
    """
    if not 0 < rate < 1:
        raise ValueError(f"false_alarm_rate must lie between 0 and 1, got {rate}.")
    if n_images < FEWEST:
        return Margin(float(gumbel_r.isf(rate)), 0.0, 1.0)
    generator, numbers = np.random.default_rng(0), (min(n_images, LARGEST_SAMPLE), min(n_learnt, LARGEST_SAMPLE))
    # In ten pieces, to save memory.
    samples = ([generator.gumbel(size=(SAMPLES // 10, n)) for n in numbers] for _ in range(10))
    location, scale = np.concatenate([_fit(*each) for each in samples], axis=1)

    def rates(scales: float) -> np.ndarray:
        """Rates of false alarms of the thresholds from samples of the standard distribution."""
        return gumbel_r.sf(location + scales * scale)

    scales = brentq(lambda scales: rates(scales).mean() - rate, -100, 1e4)
    return Margin(scales, *np.quantile(rates(scales), (0.05, 0.95)).tolist())


def _fit(samples: np.ndarray, learnt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of samples of shape ``(..., n)``; the scale also by those learnt from, ``(..., m)``."""
    mean, scale = _moments(samples)
    if learnt.size:
        n, m, (other_mean, other) = samples.shape[-1], learnt.shape[-1], _moments(learnt)
        # What scores lower by a factor spreads less by it.
        other = np.maximum(other + USUAL_SCALE * (mean - other_mean), 0)
        scale = (n * scale + m * other) / (n + m)
    return mean - np.euler_gamma * scale, scale


def _moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and scale by the second L-moment, of samples of shape ``(..., n)``."""
    n = samples.shape[-1]
    scale = np.sort(samples, axis=-1) @ ((2 * np.arange(n) - n + 1) / max(n - 1, 1) / n) / log(2)
    return samples.mean(axis=-1), scale
