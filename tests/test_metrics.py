"""Metrics depend on the order of the scores, not on their range."""

import pytest
import torch
from anomalib.data import ImageBatch
from sklearn.metrics import roc_auc_score

from anomalib_students.metrics import AUROC, create_metrics


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (20, 0), (0.01, 0.5), (5, 60)])
def test_auroc_of_scores_of_any_range(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    batches = []
    for _ in range(3):
        labels = torch.rand(50, generator=generator) < 0.4
        scores = scale * (labels + torch.randn(50, generator=generator)) + shift
        metric.update(ImageBatch(image=torch.zeros(50, 3, 1, 1), pred_score=scores, gt_label=labels))
        batches.append((labels, scores))
    labels, scores = (torch.cat(parts) for parts in zip(*batches, strict=True))
    # Rounding may make a few of the thousands of pairs equal.
    assert float(metric.compute()) == pytest.approx(roc_auc_score(labels, scores), abs=5e-4)


def test_names_are_those_of_anomalib() -> None:
    assert [metric.name for metric in create_metrics("p33_")] == [
        "p33_image_AUROC",
        "p33_pixel_AUROC",
        "p33_pixel_AUPRO",
    ]


def test_batches_without_ground_truth_are_skipped_where_that_is_allowed() -> None:
    metric = AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)
    metric.update(ImageBatch(image=torch.zeros(1, 3, 8, 8), anomaly_map=torch.zeros(1, 8, 8)))
    assert metric.compute() is None
