"""Metrics that depend only on the order of the scores, and are NaN if they can't be measured."""

import logging
from typing import Any

import torch
from anomalib import metrics
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from torchmetrics.utilities import dim_zero_cat

logger = logging.getLogger(__name__)

NOTHING = "in the ground truth of the test images, nothing is anomalous"


class AUROC(metrics.AUROC):
    """Area under the ROC curve of scores of any range; NaN without good or without anomalous ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics takes scores beyond 0 to 1 for logits, and their sigmoid makes all large ones equal.
        super().__init__(*args, normalization=None, **kwargs)

    def update(self, batch: Batch) -> None:  # type: ignore[override]
        """Add the scores of a batch; raise a ``ValueError`` if one is NaN, which has no rank."""
        field = self.fields[0]
        scores = getattr(batch, field, None)
        if scores is not None:
            if scores.isnan().any():
                raise ValueError(f"{self.name} can't rank scores that are NaN, but {field} has some.")
            # The difference of two infinite scores would be NaN.
            batch = batch.update(in_place=False, **{field: scores.float().nan_to_num()})
        super().update(batch)

    def compute(self) -> torch.Tensor:  # type: ignore[override]
        """Compute the area, in ``[0, 1]`` or NaN; None if no batch has had the fields."""
        return _nan(self, reason) if (reason := _one_class(self)) else super().compute()


class AUPRO(metrics.AUPRO):
    """Area under the per-region overlap curve; NaN if no pixel is anomalous, or images differ in size."""

    def compute(self) -> torch.Tensor:
        """Compute the area, in ``[0, 1]`` or NaN; None if no batch has had the fields."""
        if len({target.shape[-2:] for target in self.target}) > 1:
            return _nan(self, "the test images differ in size")
        return _nan(self, reason) if (reason := _one_class(self)) else super().compute()


class F1Score(metrics.F1Score):
    """F1 of labels or masks; NaN if nothing is anomalous."""

    def compute(self) -> torch.Tensor:
        """Compute the score, in ``[0, 1]`` or NaN; None if no batch has had the fields."""
        if self.update_called and not (dim_zero_cat(self.tp) + dim_zero_cat(self.fn)).any():
            return _nan(self, NOTHING)
        return super().compute()


def create_metrics(prefix: str = "", fpr_limit: float = 0.3) -> list[AnomalibMetric]:
    """Create the metrics without thresholds: AUROC of images and pixels, and AUPRO up to the rate ``fpr_limit``."""
    pixel_fields = ["anomaly_map", "gt_mask"]
    return [
        AUROC(fields=["pred_score", "gt_label"], prefix=f"{prefix}image_"),
        AUROC(fields=pixel_fields, prefix=f"{prefix}pixel_", strict=False),
        AUPRO(fields=pixel_fields, prefix=f"{prefix}pixel_", strict=False, fpr_limit=fpr_limit),
    ]


def create_evaluator() -> Evaluator:
    """Create an evaluator with AUROC and F1 of images and pixels, and the paper's AUPRO."""
    image_f1 = F1Score(fields=["pred_label", "gt_label"], prefix="image_")
    pixel_f1 = F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False)
    image_auroc, pixel_auroc, pixel_aupro = create_metrics()
    return Evaluator(test_metrics=[image_auroc, image_f1, pixel_auroc, pixel_f1, pixel_aupro])


def _one_class(metric: AUROC | AUPRO) -> str | None:
    """Say so if the ground truth, if there is any, has only good or only anomalous items."""
    if not metric.update_called:
        return None
    target = dim_zero_cat(metric.target)
    if not target.any():
        return NOTHING
    return NOTHING.replace("nothing", "everything") if target.all() else None


def _nan(metric: AUROC | AUPRO | F1Score, reason: str) -> torch.Tensor:
    """Warn, and return NaN, where torchmetrics returns 0, as if a model found nothing."""
    logger.warning("%s can't be measured, and is NaN: %s.", metric.name, reason)
    return torch.tensor(torch.nan, device=metric.device)
