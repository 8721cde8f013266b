"""Thresholds of post-processors, and what is said of them."""

from math import inf, nan

import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_students.report.threshold import find_threshold, provenance

from .conftest import Decision


class Model:
    def __init__(self, post_processor):
        self.post_processor = post_processor


def set_up(image=3.0, pixel=2.0, **arguments):
    post_processor = PostProcessor(**arguments)
    post_processor._image_threshold = torch.tensor(image)
    post_processor._pixel_threshold = torch.tensor(pixel)
    return post_processor


def test_thresholds_are_on_the_scale_of_the_scores():
    assert find_threshold(Model(set_up()))[:2] == (0.5, 0.5)
    assert find_threshold(Model(set_up(image_sensitivity=0.25))).score == 0.75


@pytest.mark.parametrize(
    "post_processor", [None, set_up(image=nan, pixel=nan), set_up(enable_thresholding=False)], ids=str
)
def test_without_a_threshold(post_processor, datamodule):
    threshold = find_threshold(Model(post_processor))
    assert threshold[:2] == (None, None)
    assert "no threshold" in provenance(threshold, datamodule)[0]


def test_a_threshold_from_good_images(datamodule):
    post_processor = set_up()
    post_processor.decision = Decision("normal", 0.01, 26, 0.002, 0.06)
    threshold = find_threshold(Model(post_processor))
    assert threshold.expected == (0.01, 0.002, 0.06)
    (sentence,) = provenance(threshold, datamodule)
    assert "from 26 good images" in sentence


def test_a_threshold_from_labelled_images_may_have_seen_the_test_images(datamodule):
    post_processor = set_up()
    sentences = provenance(find_threshold(Model(post_processor)), datamodule)
    assert "best F1 score on the validation images" in sentences[0]
    assert "validation images are the test images" in sentences[1]
    post_processor.decision = Decision("f1", nan, 12, nan, inf)
    threshold = find_threshold(Model(post_processor))
    assert threshold.expected is None
    assert "best F1 score on 12 validation images" in provenance(threshold, datamodule)[0]
    datamodule.val_split_mode = "from_test"
    assert len(provenance(threshold, datamodule)) == 1
