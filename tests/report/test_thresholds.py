"""Thresholds of post-processors, and what is said of them."""

from math import nan
from types import SimpleNamespace

import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_students.model.post_processor import FalseAlarmPostProcessor
from anomalib_students.report.results import UNRECORDED, find_thresholds, remarks


def thresholds_of(post_processor):
    return find_thresholds(SimpleNamespace(post_processor=post_processor))


def set_up(image=3.0, pixel=2.0, **arguments):
    """Post-processor of anomalib's with thresholds."""
    post_processor = PostProcessor(**arguments)
    post_processor._image_threshold = torch.tensor(image)
    post_processor._pixel_threshold = torch.tensor(pixel)
    return post_processor


def test_thresholds_are_on_the_scale_of_the_scores():
    assert thresholds_of(set_up())[:2] == (0.5, 0.5)
    assert thresholds_of(set_up(image_sensitivity=0.25)).score == 0.75


@pytest.mark.parametrize(
    "post_processor",
    [None, set_up(image=nan, pixel=nan), set_up(enable_thresholding=False), FalseAlarmPostProcessor()],
    ids=["none", "not set", "disabled", "not chosen"],
)
def test_without_a_threshold(post_processor, datamodule):
    thresholds = thresholds_of(post_processor)
    assert thresholds == (None, None, UNRECORDED)
    assert "no threshold" in remarks(thresholds, datamodule)[0]


def test_thresholds_from_good_images(datamodule):
    post_processor = FalseAlarmPostProcessor(false_alarm_rate=0.02)
    post_processor.choose(torch.linspace(1, 2, 26))
    thresholds = thresholds_of(post_processor)
    assert thresholds == (0.5, 0.5, post_processor.decision)
    (sentence,) = remarks(thresholds, datamodule)
    assert "26 good images" in sentence


@pytest.mark.parametrize("says_how", [True, False])
def test_thresholds_from_labelled_images_may_have_seen_the_test_images(datamodule, says_how):
    post_processor = set_up()
    if says_how:
        post_processor = FalseAlarmPostProcessor(threshold="f1")
        post_processor._image_threshold.fill_(3)
        post_processor.rule = "f1"
    thresholds = thresholds_of(post_processor)
    sentences = remarks(thresholds, datamodule)
    assert "best F1 on the validation images" in sentences[0]
    assert "validation images are the test images" in sentences[1]
    datamodule.val_split_mode = "from_test"
    assert remarks(thresholds, datamodule) == sentences[:1]
