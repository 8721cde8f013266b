"""Drift: whether images still look like the good ones that a model was trained with.

A cumulative sum (Page, "Continuous inspection schemes", Biometrika 41, 1954) adds up how far statistics of the images
lie from those of good ones, in standard deviations, less what is usual, in either direction.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import sqrt
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

import numpy as np

from .sources import Item, decode

__all__ = ["Drift", "DriftMonitor", "image_statistics", "statistics_of_files", "summarise"]

ROWS = 256  # Most rows of an image that are looked at; all of their columns, so that blur is seen.
LIMIT = 3.0  # Most deviations that an image counts as, so that a single odd one is no drift.
SLACK = 0.5  # Deviations that are usual; more if the mean of good images is known from a few only.
ALARM = 20.0  # Reached after 11 images with the largest deviation, by 10,000 good images hardly ever.
LEAST = 0.005  # Least standard deviation as a fraction of the mean, for images that hardly differ.
FEWEST = 5  # Images whose spread is trusted.
WINDOW = 200  # Images that the medians are taken of.
WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("lower in contrast", "higher in contrast"),
    "sharpness": ("less sharp", "sharper"),
}


class Drift(NamedTuple):
    """A statistic that has left the range of good images: its mean there, and its median in the latest images."""

    name: str
    expected: float
    found: float

    def __str__(self) -> str:
        """Describe the drift in a sentence."""
        change = self.found - self.expected
        if words := WORDS.get(self.name):
            return (
                f"the images are {abs(change) / max(self.expected, 1e-6):.0%} {words[change > 0]} than good ones were"
            )
        if self.name == "score":
            return f"the score of images called good has changed from {self.expected:.2f} to {self.found:.2f}"
        return f"what is in the images has moved by {change:+.1%} of their {self.name}"


class DriftMonitor:
    """Watch statistics of images that arrive one after the other.

    Args:
        good: Statistics of good images, as :func:`summarise` returns them.

    Example:
        >>> monitor = DriftMonitor({"brightness": {"mean": 0.5, "std": 0.1, "count": 27}})
        >>> [str(drift) for drift in [monitor.update({"brightness": 0.8}) for _ in range(30)][-1]]
        ['the images are 60% brighter than good ones were']
    """

    def __init__(self, good: Mapping[str, Mapping[str, float]]) -> None:
        self._mean = {name: each["mean"] for name, each in good.items()}
        self._std = {name: max(each["std"], LEAST * abs(each["mean"]), 1e-6) for name, each in good.items()}
        self._slack = {name: SLACK + 3 / sqrt(each["count"]) for name, each in good.items()}
        self._sums = dict.fromkeys(good, (0.0, 0.0))
        self._latest = {name: deque[float](maxlen=WINDOW) for name in good}

    def update(self, values: Mapping[str, float]) -> tuple[Drift, ...]:
        """Add the statistics of an image, and return what is out of its range now."""
        for name in self._sums.keys() & values.keys():
            distance = min(max((values[name] - self._mean[name]) / self._std[name], -LIMIT), LIMIT)
            above, below = (total - self._slack[name] for total in self._sums[name])
            # Bounded, so that an alarm ends soon after its cause.
            bounded = (min(max(total, 0.0), 2 * ALARM) for total in (above + distance, below - distance))
            self._sums[name] = next(bounded), next(bounded)
            self._latest[name].append(values[name])
        # Only images since the drift began.
        recent = {name: [*self._latest[name]][-int(ALARM / LIMIT) :] for name in self._sums if self._drifts(name)}
        return tuple(Drift(name, self._mean[name], median(latest)) for name, latest in recent.items())

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the mean of each statistic in good images, its median in the latest 200, and whether it drifts."""
        medians = {name: median(values) if values else None for name, values in self._latest.items()}
        rows = zip(self._mean.items(), medians.values(), strict=True)
        return {name: {"expected": mean, "median": now, "drifts": self._drifts(name)} for (name, mean), now in rows}

    def _drifts(self, name: str) -> bool:
        return max(self._sums[name]) > ALARM


def image_statistics(image: np.ndarray) -> dict[str, float]:
    """Take statistics of an image ``(H, W, 3)`` of uint8: of its grey values in ``[0, 1]``, and of what lies where."""
    grey = image[:: -(-len(image) // ROWS)].mean(axis=2, dtype=np.float32) / 255
    brightness, contrast = float(grey.mean()), float(grey.std())
    # The mean step between neighbours, whatever the contrast.
    sharpness = float(np.abs(np.diff(grey, axis=1)).sum()) / grey.size / max(contrast, 1e-3)
    # The centre of what differs from the median, as a fraction of the sides.
    weight = np.abs(grey - np.median(grey)) + 1e-6
    centre = (
        np.average((np.arange(side) + 0.5) / side, weights=weight.sum(1 - i)) for i, side in enumerate(grey.shape)
    )
    down, across = map(float, centre)
    return {"brightness": brightness, "contrast": contrast, "sharpness": sharpness, "width": across, "height": down}


def summarise(values: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Summarise statistics of good images by ``mean``, ``std`` and ``count``; those of fewer than five say nothing."""
    rows = list(values)
    columns = {name: [row[name] for row in rows] for name in rows[0]} if len(rows) >= FEWEST else {}
    return {name: {"mean": fmean(each), "std": stdev(each), "count": len(each)} for name, each in columns.items()}


def statistics_of_files(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Summarise statistics of good images, given their files' scores, without files that cannot be read."""
    rows = []
    for path, score in scores.items():
        with suppress(ValueError):
            rows.append({**image_statistics(decode(Item(path))), "score": score})
    return summarise(rows)
