"""How the learning rate changes over a training."""

from math import cos, pi
from typing import Literal

__all__ = ["LearningRateSchedule", "cosine_with_warm_up"]

LearningRateSchedule = Literal["constant", "cosine"]


def cosine_with_warm_up(step: int, steps: float, warm_up: float = 0) -> float:
    """Factor of the learning rate, in ``[0, 1]``: a linear rise over ``warm_up`` steps, and half a cosine down to zero.

    It depends only on the step, so that a training can be resumed with more steps.

    Example:
        >>> [round(cosine_with_warm_up(step, 4), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return min(1.0, (step + 1) / max(warm_up, 1)) * (1 + cos(pi * min(step / steps, 1))) / 2
