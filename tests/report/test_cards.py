"""Which images come first, and what their pictures show."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_students.report.pictures import Scale, in_order, make_card, map_scale, outline_uri, overlay

from .conftest import result


def decode(uri):
    kind, _, content = uri.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_mistakes_come_first_and_the_clearest_of_them_before_others(results):
    extra = [result("good/009", False, 0.6, True), result("crack/009", True, 0.2, False)]
    ordered = in_order([*results, *extra])
    assert [(each.outcome, each.score) for each in ordered] == [
        ("false alarm", 0.7),
        ("false alarm", 0.6),
        ("missed", 0.2),
        ("missed", 0.3),
        ("missed", 0.42),
        ("found", 0.55),
        ("found", 0.8),
        ("found", 0.9),
        ("passed", 0.45),
        ("passed", 0.4),
        ("passed", 0.1),
    ]


def test_without_decisions_the_highest_scores_come_first(results):
    ordered = in_order([each._replace(is_alarm=None) for each in results])
    assert [each.score for each in ordered] == sorted((each.score for each in results), reverse=True)
    assert {each.outcome for each in ordered} == {"good", "defective"}


def usual(results):
    """What 99 % of the pixels of a good image do not reach, in the median image."""
    return np.median([np.percentile(each.anomaly_map.numpy(), 99) for each in results if not each.is_defective])


@pytest.fixture
def faint(results):
    """Results whose maps are an eighth as high."""
    return [each._replace(anomaly_map=each.anomaly_map / 8) for each in results]


def test_the_threshold_is_the_middle_of_the_colours(faint):
    scale = map_scale(faint, 0.3)
    assert scale == pytest.approx((usual(faint), 0.3, 1))
    between = (scale.begin + 0.3) / 2, (0.3 + 1) / 2
    places = scale.places(np.array([0, scale.begin, between[0], 0.3, between[1], 1, 9]))
    assert list(places) == pytest.approx([0, 0, 0.5 * np.sqrt(0.5), 0.5, 0.75, 1, 1])


def test_without_a_threshold_the_colours_end_at_the_highest_scores(results):
    scale = map_scale(results, None)
    assert scale.begin == pytest.approx(usual(results))
    assert 1 < scale.end <= max(float(each.anomaly_map.max()) for each in results)
    places = scale.places(np.array([scale.begin, (scale.begin + scale.end) / 2, scale.end]))
    assert list(places) == pytest.approx([0, 0.5, 1])
    constant = [each._replace(anomaly_map=torch.ones(40, 40)) for each in results]
    assert map_scale(constant, None).places(np.ones(1)) == 0


def test_without_good_images_all_decide_where_the_colours_begin(results):
    defective = [each for each in results if each.is_defective]
    assert map_scale(defective, 0.3).begin == 0
    assert map_scale(defective, None).begin > usual(results)
    assert map_scale([each._replace(anomaly_map=None) for each in results], 0.5) is None


def test_a_map_covers_what_it_marks_and_leaves_the_rest_as_it_is():
    picture = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    scores = np.zeros((16, 24), np.float32)
    scores[:, 16:] = 1
    covered = overlay(picture, scores, Scale(0, None, 1))
    np.testing.assert_array_equal(covered[:, :28], picture[:, :28])
    # Light yellow, the end of the colour map.
    assert covered[:, 36:].mean(axis=(0, 1)) == pytest.approx([233, 237, 158], abs=8)


def test_an_outline_lies_around_what_is_marked():
    mask = np.zeros((64, 64), bool)
    mask[16:32, 40:48] = True
    # A single pixel is seen in a picture of half the size too.
    mask[51, 7] = True
    kind, picture = decode(outline_uri(mask, (32, 32)))
    assert (kind, picture.size) == ("data:image/png", (32, 32))
    opaque = np.asarray(picture.convert("RGBA"))[..., 3] > 0
    expected = np.zeros((32, 32), bool)
    expected[7:17, 20:24] = expected[8:16, 19:25] = True
    expected[8:16, 20:24] = False
    expected[[24, 26, 25, 25], [3, 3, 2, 4]] = True
    np.testing.assert_array_equal(opaque, expected)


def test_a_card_has_a_picture_a_map_and_an_outline_if_there_are_any(results):
    good, defective = (make_card(each, map_scale(results, 0.5)) for each in (results[0], results[4]))
    assert (good["outline"], good["width"], good["height"]) == (None, 40, 40)
    for uri in (defective["picture"], defective["heat"]):
        kind, picture = decode(uri)
        assert (kind, picture.format, picture.size) == ("data:image/jpeg", "JPEG", (40, 40))
    assert decode(defective["outline"])[0] == "data:image/png"
    whole = make_card(result("crack/000", True, 0.5, has_map=False), None)
    assert (whole["heat"], whole["outline"]) == (None, None)
