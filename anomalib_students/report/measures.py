"""Counts, rates and areas under curves of the test images, over all and by type of defect."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch
from scipy.stats import binomtest
from sklearn.metrics import auc, roc_curve
from torchmetrics.utilities import dim_zero_cat

from anomalib_students.model.metrics import AUPRO

from .results import ImageResult

CONFIDENCE = 0.9
"""Of the intervals of rates: that of the expected rate of false alarms."""
FPR_LIMIT = 0.3
"""False positive rate up to which the PRO curve is shown and integrated."""
N_POINTS = 400
"""Points of a PRO curve that are drawn, of one for each score of a pixel."""


class Rate(NamedTuple):
    """A number of images out of a total."""

    number: int
    total: int

    @property
    def value(self) -> float | None:
        """The rate in ``[0, 1]``; None if there are no images."""
        return self.number / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's interval in which the rate on other images like these lies with 90 % confidence."""
        if not self.total:
            return None
        interval = binomtest(self.number, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(interval.low), float(interval.high)


class Curve(NamedTuple):
    """A curve over ascending false positive rates, and the area under it.

    The area under a PRO curve is divided by the limit of the false positive rate.
    """

    fpr: np.ndarray
    values: np.ndarray
    area: float


class Kind(NamedTuple):
    """Images of one type of defect, or good ones.

    ``alarms`` is None without a threshold. AUROC and AUPRO are against good images, None if they cannot be measured.
    """

    name: str
    is_defective: bool
    n_images: int
    alarms: Rate | None
    mean_score: float
    auroc: float | None
    aupro: float | None


def alarm_rate(results: Sequence[ImageResult]) -> Rate:
    """Count the images that are called anomalous."""
    return Rate(sum(bool(result.is_alarm) for result in results), len(results))


def precision_at(fraction: float, recall: Rate, false_alarms: Rate) -> float | None:
    """Compute the precision if another fraction of the images were defective than of the test images.

    None if the recall is not known, or if there was no false alarm: among many more good parts there may be some.
    """
    if recall.value is None or not false_alarms.value:
        return None
    right, wrong = fraction * recall.value, (1 - fraction) * false_alarms.value
    return right / (right + wrong)


def kinds_of(results: Sequence[ImageResult]) -> list[Kind]:
    """Measure each type of defect: the good images first, then the types of defects by name."""
    good = [result for result in results if not result.is_defective]
    groups: dict[tuple[bool, str], list[ImageResult]] = {}
    for result in results:
        groups.setdefault((result.is_defective, result.kind), []).append(result)
    kinds = []
    for (is_defective, name), group in sorted(groups.items(), key=lambda item: item[0]):
        roc, pro = (image_roc([*good, *group]), pixel_pro([*good, *group])) if is_defective else (None, None)
        alarms = None if group[0].is_alarm is None else alarm_rate(group)
        mean_score = float(np.mean([result.score for result in group]))
        kinds.append(Kind(name, is_defective, len(group), alarms, mean_score, roc and roc.area, pro and pro.area))
    return kinds


def image_roc(results: Sequence[ImageResult]) -> Curve | None:
    """Compute the ROC curve of the scores of images; None unless there are both good and defective ones."""
    truth = np.array([result.is_defective for result in results])
    if len(set(truth)) < 2:
        return None
    fpr, tpr, _ = roc_curve(truth, [result.score for result in results])
    return Curve(fpr, tpr, float(auc(fpr, tpr)))


def pixel_pro(results: Sequence[ImageResult]) -> Curve | None:
    """Compute the PRO curve of anomaly maps up to a false positive rate of 0.3.

    None without maps or masks of all images, without an anomalous or a normal pixel, or if the maps differ in size.
    """
    maps = [result.anomaly_map for result in results if result.anomaly_map is not None]
    masks = [result.mask for result in results if result.mask is not None]
    if not len(maps) == len(masks) == len(results) or len({each.shape for each in [*maps, *masks]}) != 1:
        return None
    marked = torch.stack(masks)
    if not marked.any() or marked.all():
        return None
    metric = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=FPR_LIMIT)
    images = torch.zeros(len(maps), 3, 1, 1)
    metric.update(ImageBatch(image=images, anomaly_map=torch.stack(maps), gt_mask=marked))
    fpr, overlap = metric.compute_pro(metric.perform_cca().squeeze(1), dim_zero_cat(metric.preds))
    places = np.linspace(0, FPR_LIMIT, N_POINTS)
    return Curve(places, np.interp(places, fpr.numpy(), overlap.numpy()), float(metric.compute()))
