"""Metrics that depend on nothing but the order of the scores, and are NaN if they can't be measured."""

import logging
from typing import Any

import torch
from anomalib import metrics
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["AUPRO", "AUROC", "F1Score", "create_metrics"]

logger = logging.getLogger(__name__)


class AUROC(metrics.AUROC):
    """Area under the ROC curve of scores of any range.

    torchmetrics takes scores beyond 0 to 1 for logits, and to their sigmoid all large ones are the same. Here they are
    ranked as they are. Without good or without anomalous ones, it is NaN.

    Args:
        fields: Names of the scores and of the ground truth in a batch.
        prefix: Beginning of the metric's name.
        strict: Whether it is an error if a batch lacks them.
        kwargs: What else torchmetrics takes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, normalization=None, **kwargs)

    def update(self, batch: Batch) -> None:  # type: ignore[override]
        """Add the scores of a batch.

        Args:
            batch: Batch with scores and ground truth.

        Raises:
            ValueError: If a score is NaN, which has no rank.
        """
        field = self.fields[0]
        scores = getattr(batch, field, None)
        if scores is not None:
            if scores.isnan().any():
                msg = f"{self.name} can't rank scores that are NaN, but {field} has some."
                raise ValueError(msg)
            # The difference of two infinite scores would be NaN.
            batch = batch.update(in_place=False, **{field: scores.float().nan_to_num()})
        super().update(batch)

    def compute(self) -> torch.Tensor:  # type: ignore[override]
        """Compute the area.

        Returns:
            Area in ``[0, 1]``, NaN if it can't be measured, None if no batch has had the fields.
        """
        return super().compute() if _tells_apart(self) else _not_a_number(self)


class AUPRO(metrics.AUPRO):
    """Area under the per-region overlap curve; NaN if no pixel is anomalous.

    Args:
        fields: Names of the anomaly map and of the mask in a batch.
        prefix: Beginning of the metric's name.
        strict: Whether it is an error if a batch lacks them.
        fpr_limit: False positive rate up to which the curve is integrated, in ``(0, 1]``.
    """

    def compute(self) -> torch.Tensor:
        """Compute the area.

        Returns:
            Area in ``[0, 1]``, NaN if it can't be measured, None if no batch has had the fields.
        """
        return super().compute() if _tells_apart(self) else _not_a_number(self)


class F1Score(metrics.F1Score):
    """F1 of labels or masks; NaN if nothing is anomalous.

    Args:
        fields: Names of the prediction and of the ground truth in a batch.
        prefix: Beginning of the metric's name.
        strict: Whether it is an error if a batch lacks them.
    """

    def compute(self) -> torch.Tensor:
        """Compute the score.

        Returns:
            Score in ``[0, 1]``, NaN if it can't be measured, None if no batch has had the fields.
        """
        if self.update_called and not (dim_zero_cat(self.tp) + dim_zero_cat(self.fn)).any():
            _warn(self, "nothing is anomalous")
            return _not_a_number(self)
        return super().compute()


def create_metrics(prefix: str = "", fpr_limit: float = 0.3) -> list[AnomalibMetric]:
    """Make the metrics that need no threshold.

    Args:
        prefix: Beginning of their names.
        fpr_limit: False positive rate up to which AUPRO integrates, in ``(0, 1]``.

    Returns:
        AUROC of images and pixels, and AUPRO.
    """
    pixel_fields = ["anomaly_map", "gt_mask"]
    return [
        AUROC(fields=["pred_score", "gt_label"], prefix=f"{prefix}image_"),
        AUROC(fields=pixel_fields, prefix=f"{prefix}pixel_", strict=False),
        AUPRO(fields=pixel_fields, prefix=f"{prefix}pixel_", strict=False, fpr_limit=fpr_limit),
    ]


def _tells_apart(metric: AUROC | AUPRO) -> bool:
    """Check that the ground truth, if there is any, has both good and anomalous items."""
    if not metric.update_called:
        return True
    target = dim_zero_cat(metric.target)
    if not target.any():
        _warn(metric, "nothing is anomalous")
    elif target.all():
        _warn(metric, "everything is anomalous")
    else:
        return True
    return False


def _not_a_number(metric: Metric) -> torch.Tensor:
    """Return NaN, for which torchmetrics has 0, as if a model found nothing."""
    return torch.tensor(torch.nan, device=metric.device)


def _warn(metric: AnomalibMetric, reason: str) -> None:
    logger.warning("%s can't be measured, and is NaN: in the ground truth of the test images, %s.", metric.name, reason)
