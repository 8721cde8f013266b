"""The images of the report: their choice, order and pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .pictures import Scale, jpeg_uri, outline_uri, overlay
from .results import ImageResult

__all__ = ["FALSE_ALARM", "MISS", "Card", "in_order", "make_cards", "map_scale", "outcome_of"]

FALSE_ALARM, MISS, FOUND, PASSED = "false alarm", "missed", "found", "passed"
DEFECTIVE, GOOD = "defective", "good"
"""Outcomes if there is no threshold."""
USUAL = 99
"""Percentile of the pixels of a good image at which the colours begin."""
HIGHEST = 99.9
"""Percentile of the scores at which the colours end if there is no threshold."""


class Card(NamedTuple):
    """An image of the report, whose pictures are data URIs of ``width`` x ``height`` pixels.

    ``heat`` is the image under its anomaly map, None without one; ``outline`` is that of the ground truth, None if
    nothing is anomalous.
    """

    name: str
    kind: str
    outcome: str
    score: float
    width: int
    height: int
    picture: str
    heat: str | None
    outline: str | None


def outcome_of(result: ImageResult) -> str:
    """Return ``"false alarm"``, ``"missed"``, ``"found"`` or ``"passed"``.

    Without a threshold, return ``"defective"`` or ``"good"``.
    """
    if result.is_alarm is None:
        return DEFECTIVE if result.is_defective else GOOD
    if result.is_defective:
        return FOUND if result.is_alarm else MISS
    return FALSE_ALARM if result.is_alarm else PASSED


def in_order(results: Sequence[ImageResult]) -> list[ImageResult]:
    """Sort images: false alarms, misses, found ones, and good ones that passed.

    Among each, the clearest mistakes and the closest decisions come first. Without a threshold, the highest scores do.
    """
    ascending = (MISS, FOUND)
    order = {FALSE_ALARM: 0, MISS: 1, FOUND: 2, PASSED: 3}

    def key(result: ImageResult) -> tuple[int, float]:
        outcome = outcome_of(result)
        return order.get(outcome, 0), result.score if outcome in ascending else -result.score

    return sorted(results, key=key)


def map_scale(results: Sequence[ImageResult], threshold: float | None) -> Scale | None:
    """Choose the colours of all maps; None if there are no maps.

    They begin at the score that 99 % of the pixels of good images do not exceed, or of all images if none is good. They
    end at 1, or without a threshold, at the highest scores.
    """
    maps = [result.anomaly_map.numpy() for result in results if result.anomaly_map is not None]
    if not maps:
        return None
    good = [
        result.anomaly_map.numpy() for result in results if result.anomaly_map is not None and not result.is_defective
    ]
    begin = float(np.median([np.percentile(each, USUAL) for each in good or maps]))
    if threshold is not None and 0 < threshold < 1:
        return Scale(begin if begin < threshold else 0, threshold, 1)
    highest = max(float(np.percentile(each, HIGHEST)) for each in maps)
    return Scale(begin, None, highest if highest > begin else begin + 1)


def make_cards(results: Sequence[ImageResult], scale: Scale | None) -> list[Card]:
    """Draw the pictures of images, with maps in the colours of the scale."""
    return [_card(result, scale) for result in results]


def _card(result: ImageResult, scale: Scale | None) -> Card:
    height, width = result.picture.shape[:2]
    heat = outline = None
    if result.anomaly_map is not None and scale is not None:
        heat = jpeg_uri(overlay(result.picture, result.anomaly_map.numpy(), scale))
    if result.mask is not None and result.mask.any():
        outline = outline_uri(result.mask.numpy(), (height, width))
    return Card(
        name=result.name,
        kind=result.kind,
        outcome=outcome_of(result),
        score=result.score,
        width=width,
        height=height,
        picture=jpeg_uri(result.picture),
        heat=heat,
        outline=outline,
    )
