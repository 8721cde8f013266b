"""Metrics depend on the order of the scores, not on their range."""

import pytest
import torch
from anomalib.data import ImageBatch
from sklearn.metrics import roc_auc_score

from anomalib_students.model.metrics import AUROC, F1Score, create_metrics


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


def batch_of(scores: torch.Tensor, labels: torch.Tensor) -> ImageBatch:
    return ImageBatch(image=torch.zeros(len(scores), 3, 1, 1), pred_score=scores, gt_label=labels)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1e4, 1e5, 1e9, 1e30])
def test_auroc_keeps_scores_apart_that_differ_in_their_last_bits(magnitude: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(500, generator=generator) < 0.4
    # The shift is a fraction of the noise, which is a hundred steps of float32 wide.
    noise = torch.randn(500, generator=generator) + 0.7 * labels
    scores = torch.tensor(magnitude) * (1 + 1e-5 * noise)
    metric = AUROC(fields=["pred_score", "gt_label"])
    for chunk in zip(scores.split(200), labels.split(200), strict=True):
        metric.update(batch_of(*chunk))
    # The area is a multiple of half a pair in 60,000; float32 rounds the sum of its parts.
    assert float(metric.compute()) == pytest.approx(roc_auc_score(labels, scores), abs=2e-6)


def test_auroc_ranks_infinite_scores_first() -> None:
    scores, labels = torch.tensor([0.0, 5e37, torch.inf, torch.inf]), torch.tensor([False, False, True, False])
    metric = AUROC(fields=["pred_score", "gt_label"])
    metric.update(batch_of(scores, labels))
    assert float(metric.compute()) == pytest.approx(2.5 / 3)


def test_auroc_refuses_what_has_no_rank() -> None:
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    with pytest.raises(ValueError, match="image_AUROC can't rank scores that are NaN, but pred_score has some"):
        metric.update(batch_of(torch.tensor([0.0, torch.nan]), torch.tensor([False, True])))


@pytest.mark.parametrize(("anomalous", "reason"), [(False, "nothing is"), (True, "everything is")])
def test_metrics_of_one_kind_of_images_are_nan(anomalous: bool, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    batch = ImageBatch(
        image=torch.zeros(2, 3, 4, 4),
        pred_score=torch.tensor([0.2, 0.6]),
        anomaly_map=torch.rand(2, 4, 4),
        pred_label=torch.tensor([False, True]),
        gt_label=torch.tensor([anomalous, anomalous]),
        gt_mask=torch.full((2, 4, 4), anomalous),
    )
    f1 = F1Score(fields=["pred_label", "gt_label"], prefix="image_")
    for metric in [*create_metrics(), f1]:
        metric.update(batch)
        # Of only anomalous images, F1 says how many were found.
        assert metric.compute().isnan() == (metric is not f1 or not anomalous)
        expected = f"{metric.name} can't be measured, and is NaN: in the ground truth of the test images, {reason}"
        assert (metric is f1 and anomalous) or caplog.messages[-1].startswith(expected)
