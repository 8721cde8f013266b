"""Counts, rates and areas under curves of the test images, over all and by type of defect."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch
from scipy.stats import binomtest
from sklearn.metrics import auc, roc_curve

from anomalib_students.model.metrics import AUPRO

from .results import ImageResult

CONFIDENCE = 0.9  # Of the intervals of rates: that of the expected rate of false alarms.


class Rate(NamedTuple):
    """A number of images out of a total."""

    number: int
    total: int

    @property
    def value(self) -> float | None:
        """The rate in ``[0, 1]``; None if there are no images."""
        return self.number / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval in which the rate on other images like these lies with 90 % confidence."""
        low, high = binomtest(self.number, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(low), float(high)


class Curve(NamedTuple):
    """A curve over ascending false positive rates, and the area under it."""

    fpr: np.ndarray
    values: np.ndarray
    area: float


def alarm_rate(results: Sequence[ImageResult]) -> Rate:
    """Count the images that are called anomalous."""
    return Rate(sum(bool(result.is_alarm) for result in results), len(results))


def kinds_of(results: Sequence[ImageResult]) -> list[dict[str, object]]:
    """Measure the good images, then each type of defect by name, its AUROC and AUPRO against the good images."""
    good = [result for result in results if not result.is_defective]
    kinds = []
    for is_defective, name in sorted({(result.is_defective, result.kind) for result in results}):
        group = [result for result in results if (result.is_defective, result.kind) == (is_defective, name)]
        roc, aupro = (image_roc([*good, *group]), pixel_aupro([*good, *group])) if is_defective else (None, None)
        kind = {"name": name, "is_defective": is_defective, "auroc": roc and roc.area, "aupro": aupro}
        alarms = None if group[0].is_alarm is None else alarm_rate(group)
        mean_score = float(np.mean([result.score for result in group]))
        kinds.append({**kind, "alarms": alarms, "n_images": len(group), "mean_score": mean_score})
    return kinds


def image_roc(results: Sequence[ImageResult]) -> Curve | None:
    """Compute the ROC curve of the scores of images; None unless there are both good and defective ones."""
    truth = [result.is_defective for result in results]
    if len(set(truth)) < 2:
        return None
    fpr, tpr, _ = roc_curve(truth, [result.score for result in results])
    return Curve(fpr, tpr, float(auc(fpr, tpr)))


def pixel_aupro(results: Sequence[ImageResult]) -> float | None:
    """Measure the AUPRO of maps; None without maps and masks of one size, or without both kinds of pixels."""
    maps = [result.anomaly_map for result in results if result.anomaly_map is not None]
    masks = [result.mask for result in results if result.mask is not None]
    if not len(maps) == len(masks) == len(results) or len({each.shape for each in [*maps, *masks]}) != 1:
        return None
    marked = torch.stack(masks)
    if not marked.any() or marked.all():
        return None
    metric = AUPRO(fields=["anomaly_map", "gt_mask"])
    metric.update(ImageBatch(image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=torch.stack(maps), gt_mask=marked))
    return float(metric.compute())
