"""The thresholds of a model, and how they were set."""

import math
from typing import NamedTuple, cast

import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor

from anomalib_students.model.post_processor import Decision

__all__ = ["Thresholds", "find_thresholds", "provenance"]


class Thresholds(NamedTuple):
    """Thresholds of images and pixels on the scale of the scores that the post-processor returns.

    They are None if the model has none; ``decision`` is None if the post-processor does not record how they were set.
    """

    score: float | None
    pixel: float | None
    decision: Decision | None = None

    @property
    def expected(self) -> tuple[float, float, float] | None:
        """Target rate of false alarms and its 90 % interval; None if the checkpoint has none."""
        if self.score is None or self.decision is None or not math.isfinite(self.decision.false_alarm_rate):
            return None
        return self.decision.false_alarm_rate, self.decision.lower, self.decision.upper


def find_thresholds(model: AnomalibModule) -> Thresholds:
    """Read the thresholds from the post-processor of a model."""
    post_processor = cast("PostProcessor | None", model.post_processor)
    if post_processor is None or not post_processor.enable_thresholding:
        return Thresholds(None, None)
    return Thresholds(
        score=_unless_nan(post_processor.normalized_image_threshold, post_processor.image_threshold),
        pixel=_unless_nan(post_processor.normalized_pixel_threshold, post_processor.pixel_threshold),
        decision=getattr(post_processor, "decision", None),
    )


def provenance(thresholds: Thresholds, datamodule: AnomalibDataModule) -> list[str]:
    """Explain in sentences how thresholds were set, and what that means for the numbers of a test."""
    if thresholds.score is None:
        return [
            "The model has no threshold, so that no image is called good or anomalous here.",
            "A training sets one if it has images to set it from.",
        ]
    # anomalib's own post-processor does not record how it has set a threshold.
    decision = thresholds.decision or Decision("f1", math.nan, 0, math.nan, math.nan)
    sentences = [str(decision)]
    if decision.rule == "f1" and datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST:
        sentences.append(
            "By the settings of the data, the validation images are the test images: expect more mistakes on new "
            "images than here."
        )
    return sentences


def _unless_nan(normalised: torch.Tensor, raw: torch.Tensor) -> float | None:
    """Return the normalised threshold, or None if there is no raw one."""
    return None if raw.isnan() else float(normalised)
