"""Whether images still look like good ones: cumulative sums (Page, "Continuous inspection schemes", 1954)."""

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import sqrt
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

import cv2
import numpy as np

from .sources import Item, decode

ROWS = 256  # Most rows of an image that are looked at; all of their columns, so that blur is seen.
LIMIT = 3.0  # Most deviations that an image counts as, so that a single odd one is no drift.
SLACK = 0.5  # Deviations that are usual; more if the mean of good images is known from a few only.
ALARM = 20.0  # Reached after 11 images with the largest deviation, by 10,000 good images hardly ever.
LEAST = 0.005  # Least standard deviation as a fraction of the mean, for images that hardly differ.
FEWEST = 5  # Images whose spread is trusted.
WINDOW = 200  # Images that the medians are taken of.


class Drift(NamedTuple):
    """A statistic that has left the range of good images: its mean there, and its median in the latest images."""

    name: str
    expected: float
    found: float

    def __str__(self) -> str:
        """Say it in a sentence."""
        change = self.found - self.expected
        if self.name == "score":
            return f"the score of images called good has changed from {self.expected:.2f} to {self.found:.2f}"
        if self.name in {"width", "height"}:
            return f"what is in the images has moved by {change:+.1%} of their {self.name}"
        fraction, direction = abs(change) / max(self.expected, 1e-6), "higher" if change > 0 else "lower"
        return f"the {self.name} of the images is {fraction:.0%} {direction} than that of good ones was"


class DriftMonitor:
    """Compare statistics of images, one after the other, with those of good ones, as :func:`summarise` returns them."""

    def __init__(self, good: Mapping[str, Mapping[str, float]]) -> None:
        self._mean = {name: each["mean"] for name, each in good.items()}
        self._std = {name: max(each["std"], LEAST * abs(each["mean"]), 1e-6) for name, each in good.items()}
        self._slack = {name: SLACK + 3 / sqrt(each["count"]) for name, each in good.items()}
        self._sums = {name: [0.0, 0.0] for name in good}
        self._latest = {name: deque[float](maxlen=WINDOW) for name in good}

    def update(self, values: Mapping[str, float]) -> tuple[Drift, ...]:
        """Add the statistics of an image, and return what is out of its range now."""
        for name in self._sums.keys() & values.keys():
            distance = min(max((values[name] - self._mean[name]) / self._std[name], -LIMIT), LIMIT)
            above, below = (total - self._slack[name] for total in self._sums[name])
            # Bounded, so that an alarm ends soon after its cause.
            self._sums[name] = [min(max(total, 0.0), 2 * ALARM) for total in (above + distance, below - distance)]
            self._latest[name].append(values[name])
        # Only images since the drift began.
        recent = {name: [*latest][-int(ALARM / LIMIT) :] for name, latest in self._latest.items()}
        return tuple(Drift(n, self._mean[n], median(recent[n])) for n, sums in self._sums.items() if max(sums) > ALARM)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the mean of each statistic in good images, its median in the latest 200, and whether it drifts."""
        medians = {name: median(values) if values else None for name, values in self._latest.items()}
        rows = ((name, self._mean[name], now, max(self._sums[name]) > ALARM) for name, now in medians.items())
        return {name: {"expected": mean, "median": now, "drifts": drifts} for name, mean, now, drifts in rows}


def image_statistics(image: np.ndarray) -> dict[str, float]:
    """Take statistics of an image ``(H, W, 3)`` of uint8: of its grey values in ``[0, 1]``, and of what lies where."""
    grey = cv2.transform(image[:: -(-len(image) // ROWS)].astype(np.float32), np.full((1, 3), 1 / 765, np.float32))
    brightness, contrast = float(grey.mean()), float(grey.std())
    # The mean step between neighbours, whatever the contrast.
    sharpness = float(np.abs(np.diff(grey, axis=1)).sum()) / grey.size / max(contrast, 1e-3)
    # The centre of what differs from the median, of every fourth column to be quick, as a fraction of the sides.
    weight = np.abs(grey - np.median(grey[:, ::4])) + 1e-6
    down, across = (float(np.average(range(n), weights=weight.sum(1 - i)) + 0.5) / n for i, n in enumerate(grey.shape))
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
