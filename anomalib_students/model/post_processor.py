"""Thresholds from only good images, and scores that mean the same for every workpiece."""

import logging
from math import nan
from typing import Any, Literal, NamedTuple, get_args

import torch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torchmetrics.utilities import dim_zero_cat

from anomalib_students.false_alarms import Margin, fit_gumbel, is_usual, margin

logger = logging.getLogger(__name__)

Threshold = Literal["normal", "f1"]
"""Source of a threshold: only normal images, or the best F1 on validation images."""

FALSE_ALARM_RATE = 0.01


class Decision(NamedTuple):
    """How the thresholds were chosen.

    Attributes:
        rule: ``"normal"`` for a rate of false alarms on good images, ``"f1"`` for the best F1 on validation images, of
            which nothing else is known.
        false_alarm_rate: Fraction of the good images that is expected to be called anomalous.
        n_images: Number of held-out good images that it was estimated from.
        lower, upper: Interval that the true rate lies in with a probability of 90 %.
    """

    rule: Threshold
    false_alarm_rate: float = nan
    n_images: int = 0
    lower: float = nan
    upper: float = nan

    def __str__(self) -> str:
        """Describe the decision in a sentence."""
        if self.rule == "f1":
            return "The thresholds have the best F1 on the validation images."
        return (
            f"The thresholds come from {self.n_images} good images that were held out of the training. About "
            f"{100 * self.false_alarm_rate:.2g} % of all good images are expected to be called anomalous; with a "
            f"probability of 90 % it is {100 * self.lower:.1f} to {100 * self.upper:.1f} %."
        )


class FalseAlarmPostProcessor(PostProcessor):
    """Post-processor with thresholds for a rate of false alarms, from only good images.

    Scores are normalised to ``[0, 1]`` with the threshold at 0.5, as anomalib's, but approach the ends instead of being
    cut off there, so that no two become equal. With the thresholds of good images, the typical good image scores 0.25.

    Args:
        threshold: ``"normal"`` to choose thresholds from held-out good images, ``"f1"`` for those with the best F1 on
            the validation images, if some are anomalous. None for what a loaded checkpoint says, or ``"normal"``.
        false_alarm_rate: Fraction of the good images that may be called anomalous, in ``(0, 1)``. None for what a
            loaded checkpoint says, or 0.01.
        kwargs: Arguments of anomalib's ``PostProcessor``.

    Attributes:
        good_images: Number of held-out good images, and location and scale of their scores, of shape ``(3,)``.

    Raises:
        ValueError: If an argument is out of range.
    """

    good_images: torch.Tensor

    def __init__(
        self, threshold: Threshold | None = None, false_alarm_rate: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if threshold not in {None, *get_args(Threshold)}:
            raise ValueError(f"threshold must be one of {get_args(Threshold)}, got {threshold!r}.")
        named = {"threshold": threshold, "false_alarm_rate": false_alarm_rate}
        self._named = {name: value for name, value in named.items() if value is not None}
        self.threshold: Threshold = threshold or "normal"
        self.false_alarm_rate = FALSE_ALARM_RATE if false_alarm_rate is None else false_alarm_rate
        # Raises an error for a rate out of range.
        margin(1, self.false_alarm_rate)
        self.rule: Threshold = "normal"
        self.learnt_images = 0  # Images that the students have learnt from, whose scores count for the scale.
        self.statistics: dict[str, dict[str, float]] = {}  # Of the held-out ones, by which drift is noticed.
        self.register_buffer("good_images", torch.tensor([0.0, torch.nan, torch.nan]))

    @property
    def decision(self) -> Decision | None:
        """How the thresholds were chosen; None if they were not yet."""
        if self.image_threshold.isnan():
            return None
        if self.rule == "f1":
            return Decision("f1")
        return Decision("normal", self.false_alarm_rate, int(self.good_images[0]), *self._margin[1:])

    @property
    def good_statistics(self) -> dict[str, Any]:
        """What exports carry of the held-out images; nothing if these did not choose the threshold."""
        n_images, location, scale = self.good_images.tolist()
        known = {"margin": self._margin.scales, "location": location, "scale": scale}
        return {**known, "statistics": self.statistics} if n_images and self.rule == "normal" else {}

    def choose(self, scores: torch.Tensor, learnt: torch.Tensor | None = None) -> torch.Tensor:
        """Choose one threshold for images and pixels: an image's score is that of its worst window, a mean of pixels.

        Args:
            scores: Finite scores of good images that no student has learnt from, of shape ``(n,)`` with n at least 1.
            learnt: Finite scores of images that the students have learnt from, of shape ``(m,)``, for the scale.

        Returns:
            Whether each score is usual, of the same shape. Those that are not have no part in the threshold.
        """
        usual = is_usual(scores)
        learnt = scores[:0] if learnt is None else learnt[is_usual(learnt)]
        self.learnt_images = len(learnt)
        self.good_images.copy_(torch.tensor([usual.sum(), *fit_gumbel(scores[usual], learnt)]))
        # Thresholds with the best F1 were those of other students.
        self.rule = "normal"
        self._set_thresholds()
        return usual

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Collect the scores of a batch only if they decide the thresholds."""
        if self.threshold == "f1" or not self.good_images[0]:
            super().on_validation_batch_end(*args, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the thresholds with the best F1, if scores were collected."""
        metric = self._image_threshold_metric
        if not metric.update_called:
            return
        has_anomalies = bool(dim_zero_cat(metric.target).any())
        super().on_validation_epoch_end(trainer, pl_module)
        if has_anomalies or not self.good_images[0]:
            self.rule = "f1"
            return
        logger.warning("No validation image is anomalous, so F1 has no threshold: that of the good images is kept.")
        self._set_thresholds()

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the settings of a checkpoint, except those that were named when this post-processor was made."""
        super().load_checkpoint_config({**config, **self._named})

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        own = ("threshold", "false_alarm_rate", "rule", "statistics", "learnt_images")
        return (*super()._checkpoint_config_keys, *own)

    @property
    def _margin(self) -> Margin:
        return margin(int(self.good_images[0]), self.false_alarm_rate, self.learnt_images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the statistics, and apply a rate that was named to them."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.rule == "normal" and "false_alarm_rate" in self._named and self.good_images[0]:
            self._set_thresholds()

    def _set_thresholds(self) -> None:
        """Set thresholds and ranges so that the mode of the good images has a score of 0.25."""
        _, location, scale = self.good_images.tolist()
        distance = self._margin.scales * scale
        for kind in ("image", "pixel"):
            getattr(self, f"_{kind}_threshold").fill_(location + distance)
            getattr(self, f"{kind}_min").fill_(location)
            getattr(self, f"{kind}_max").fill_(location + 2 * distance)

    def _normalize(  # type: ignore[override]
        self, preds: torch.Tensor | None, norm_min: torch.Tensor, norm_max: torch.Tensor, threshold: torch.Tensor
    ) -> torch.Tensor | None:
        """Normalise as anomalib near the threshold, and never reach 0 or 1 by a finite score."""
        if preds is None:
            return None
        threshold = torch.where(threshold.isnan(), (norm_max + norm_min) / 2, threshold)
        # A softsign in a form that takes infinity, the score of broken images in exported models.
        distance = (preds - threshold) / (norm_max - norm_min).clamp_min(torch.finfo(torch.float32).tiny)
        normalised = 0.5 + 0.5 * distance.sign() * (1 - 1 / (1 + 2 * distance.abs()))
        return torch.where(norm_min.isnan() | norm_max.isnan(), preds, normalised)
