"""Metrics that depend on nothing but the order of the scores."""

from anomalib import metrics
from anomalib.data import Batch
from anomalib.metrics import AUPRO, AnomalibMetric
from torch.nn.functional import softsign

__all__ = ["AUROC", "create_metrics"]


class AUROC(metrics.AUROC):
    """Area under the ROC curve of scores of any range.

    torchmetrics takes scores beyond 0 to 1 for logits, and to their sigmoid all large ones are the same. Here they are
    brought to that range beforehand, by a function that keeps them apart.

    Args:
        fields: Names of the scores and of the ground truth in a batch.
        prefix: Beginning of the metric's name.
        strict: Whether it is an error if a batch lacks them.
    """

    def update(self, batch: Batch) -> None:  # type: ignore[override]
        """Add the scores of a batch.

        Args:
            batch: Batch with scores and ground truth.
        """
        field = self.fields[0]
        scores = getattr(batch, field, None)
        if scores is not None:
            batch = batch.update(in_place=False, **{field: (1 + softsign(scores.float())) / 2})
        super().update(batch)


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
