"""The threshold of a model, and how it was set."""

import math
from typing import Any, NamedTuple, cast

import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor

__all__ = ["Threshold", "find_threshold", "provenance"]


class Threshold(NamedTuple):
    """Thresholds on the scale of the scores that the post-processor returns.

    Attributes:
        score: Above it, an image is called anomalous; None if the model has no threshold.
        pixel: Above it, a pixel is called anomalous; None if the model has no threshold.
        decision: How it was set, where the checkpoint says so: ``rule``, ``false_alarm_rate``, ``n_images``, ``lower``
            and ``upper``.
    """

    score: float | None
    pixel: float | None
    decision: Any = None

    @property
    def expected(self) -> tuple[float, float, float] | None:
        """Rate of false alarms that was aimed at, and its 90 % interval; None if the checkpoint does not say."""
        if self.score is None or self.decision is None or not math.isfinite(self.decision.false_alarm_rate):
            return None
        return self.decision.false_alarm_rate, self.decision.lower, self.decision.upper


def find_threshold(model: AnomalibModule) -> Threshold:
    """Take the thresholds from the post-processor of a model.

    Args:
        model: Trained model.

    Returns:
        Its thresholds.
    """
    post_processor = cast("PostProcessor | None", model.post_processor)
    if post_processor is None or not post_processor.enable_thresholding:
        return Threshold(None, None)
    return Threshold(
        score=_unless_nan(post_processor.normalized_image_threshold, post_processor.image_threshold),
        pixel=_unless_nan(post_processor.normalized_pixel_threshold, post_processor.pixel_threshold),
        decision=getattr(post_processor, "decision", None),
    )


def provenance(threshold: Threshold, datamodule: AnomalibDataModule) -> list[str]:
    """Say in sentences how a threshold was set, and what that means for the numbers of a test.

    Args:
        threshold: Threshold of a model.
        datamodule: Data that it is tested on.

    Returns:
        Sentences.
    """
    if threshold.score is None:
        return [
            "The model has no threshold, so that no image is called good or anomalous here.",
            "A training sets one if it has images to set it from.",
        ]
    decision = threshold.decision
    if decision is not None and decision.rule == "normal":
        sentences = [
            f"The threshold was set from {_count(decision.n_images, 'good image')} that the training had held out."
        ]
    else:
        images = "the validation images" if decision is None else _count(decision.n_images, "validation image")
        sentences = [f"The threshold is the one with the best F1 score on {images}, good and defective ones."]
        if datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST:
            sentences.append(
                "By the settings of the data, the validation images are the test images: expect more mistakes on new "
                "images than here."
            )
    return sentences


def _unless_nan(normalised: torch.Tensor, raw: torch.Tensor) -> float | None:
    """Take a threshold on the scale of the normalised scores, unless there is none."""
    return None if raw.isnan() else float(normalised)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
