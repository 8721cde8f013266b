"""Settings of a sweep over the weights of the teacher's loss (eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalib_students.runs.experiment import Experiment
from anomalib_students.teacher import pretrain as pretraining

__all__ = ["LOSS_WEIGHTS", "PAPER_WEIGHTS", "Sweep"]

LOSS_WEIGHTS = tuple(pretraining.LOSS_WEIGHTS.values())
"""Arguments of the pretraining that are the weights of eq. 6."""
PAPER_WEIGHTS = tuple(
    dict(zip(LOSS_WEIGHTS, map(float, weights), strict=True)) for weights in pretraining.PAPER_WEIGHTS
)
"""The four settings of the paper (Table 2), which are always tried."""


@dataclass(frozen=True)
class Sweep:
    """Settings of a sweep.

    Attributes:
        pretraining: Arguments of :func:`~anomalib_students.teacher.pretrain.pretrain` that all trials share.
        choices: Values of each argument of the pretraining that is swept.
        experiment: Data and students that teachers are judged by. Its storage path is a folder that all nodes share.
        categories: Categories of the data; a single None for data that have only one.
        epochs: Epochs that students are trained for on each category.
        metric: Metric on the validation images that is maximised.
        trials: Number of trials, including the paper's settings.
    """

    pretraining: Mapping[str, Any]
    choices: Mapping[str, Sequence[Any]]
    experiment: Experiment
    categories: Sequence[str | None]
    epochs: int
    metric: str = "pixel_AUPRO"
    trials: int = 8
