"""Counts by hand, and areas and curves against other implementations."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import auc, roc_auc_score

from anomalib_students.report.measures import Rate, alarm_rate, image_roc, kinds_of, pixel_aupro

from .conftest import result


def pro_by_hand(results, limit=0.3):
    """Area under the mean overlap of regions over the false positive rate, threshold by threshold."""
    maps = np.stack([each.anomaly_map.numpy() for each in results])
    masks = np.stack([each.mask.numpy() for each in results])
    regions = []
    for number, mask in enumerate(masks):
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [maps[number][labels == label] for label in range(1, n + 1)]
    thresholds = np.concatenate([[np.inf], np.unique(maps)[::-1]])
    fpr = np.array([(maps[~masks] >= threshold).mean() for threshold in thresholds])
    pro = np.array([np.mean([(region >= threshold).mean() for region in regions]) for threshold in thresholds])
    ends = np.append(fpr[fpr < limit], limit)
    return auc(ends, np.interp(ends, fpr, pro)) / limit


def test_a_rate_has_wilsons_interval():
    # Wilson, 1927, at z = 1.6449: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    n, p, z = 20, 0.05, 1.6448536
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    assert Rate(1, 20).interval == pytest.approx(expected)
    assert Rate(1, 20).value == 0.05
    assert Rate(0, 0) == (0, 0)
    assert Rate(0, 0).value is None


def test_alarms_are_counted(results):
    assert alarm_rate([each for each in results if not each.is_defective]) == (1, 4)
    assert alarm_rate([each for each in results if each.is_defective]) == (3, 5)


def test_roc_is_that_of_scikit_learn(results):
    curve = image_roc(results)
    expected = roc_auc_score([each.is_defective for each in results], [each.score for each in results])
    assert curve.area == pytest.approx(expected)
    assert auc(curve.fpr, curve.values) == pytest.approx(expected)


def test_pro_is_that_of_a_loop_over_thresholds(results):
    area = pixel_aupro(results)
    assert area == pytest.approx(pro_by_hand(results), abs=1e-4)
    assert 0.3 < area < 0.9


def test_types_are_measured_against_the_good_images(results):
    good, crack, dent = kinds_of(results)
    assert [kind["name"] for kind in (good, crack, dent)] == ["good", "crack", "dent"]
    assert [kind["n_images"] for kind in (good, crack, dent)] == [4, 3, 2]
    assert [kind["alarms"] for kind in (good, crack, dent)] == [(1, 4), (2, 3), (1, 2)]
    assert crack["mean_score"] == pytest.approx((0.9 + 0.55 + 0.3) / 3)
    # How many good images each of the three cracks is above.
    assert crack["auroc"] == pytest.approx((4 + 3 + 1) / 12)
    assert dent["auroc"] == pytest.approx((4 + 2) / 8)
    own = [each for each in results if each.kind in {"good", "dent"}]
    assert dent["aupro"] == pytest.approx(pro_by_hand(own), abs=1e-4)
    assert (good["auroc"], good["aupro"]) == (None, None)


@pytest.mark.parametrize("is_defective", [False, True])
def test_of_one_class_there_is_no_curve(results, is_defective):
    own = [each for each in results if each.is_defective == is_defective]
    assert image_roc(own) is None
    assert (pixel_aupro(own) is None) == (not is_defective)


def test_no_pro_without_maps_or_masks_or_of_several_sizes(results):
    assert pixel_aupro([each._replace(anomaly_map=None) for each in results]) is None
    assert pixel_aupro([each._replace(mask=None) for each in results]) is None
    assert pixel_aupro([each._replace(mask=torch.zeros(40, 40, dtype=torch.bool)) for each in results]) is None
    other = result("crack/009", True, 0.5)
    assert pixel_aupro([*results, other._replace(anomaly_map=torch.rand(20, 20), mask=torch.ones(20, 20) > 0)]) is None
