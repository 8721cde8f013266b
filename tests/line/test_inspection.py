"""Tests of the inspection as a generator."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from anomalib_students.line import LineModel, inspect
from anomalib_students.line.inspection import percentile

from .conftest import save_model


def grey(level: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.full((*size, 3), level, dtype=np.uint8)


def test_scores_labels_and_regions_are_the_models_in_the_order_of_the_images(model: Path) -> None:
    images = [grey(level, (16 + level % 7, 20)) for level in range(0, 250, 10)]
    images[20][3:5, 7:11] = 255
    results = list(inspect(model, images))
    assert [result.name for result in results] == [str(number) for number in range(len(images))]
    for image, result in zip(images, results, strict=True):
        assert result.score == pytest.approx(image.max() / 255, abs=1e-6)
        assert result.is_anomalous == (image.max() > 127)
        assert len(result.regions) == int(result.is_anomalous)
        assert result.percentile is None
    height, width = images[20].shape[:2]
    assert results[20].regions[0][:5] == (0, 0, width, height, width * height)


def test_a_damaged_image_is_a_result_with_its_error(model: Path, tmp_path: Path) -> None:
    Image.fromarray(grey(40)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    first, second, third = inspect(model, [tmp_path / "cut.png", tmp_path / "good.png", np.zeros((4, 4))])
    assert first.score is None
    assert "cut.png" in str(first.error)
    assert second.score == pytest.approx(40 / 255, abs=1e-6)
    assert "uint8" in str(third.error)


def test_an_image_of_a_camera_is_returned_before_the_next_one_comes(model: Path) -> None:
    returned = Event()

    def frames() -> Iterator[np.ndarray]:
        yield grey(10)
        assert returned.wait(30), "the first result waits for the second image"
        yield grey(200)

    results = inspect(model, frames())
    assert not next(results).is_anomalous
    returned.set()
    assert next(results).is_anomalous


def test_stop_ends_an_endless_source(model: Path) -> None:
    stop = Event()
    results = inspect(model, itertools.repeat(grey(0)), stop=stop)
    next(results)
    stop.set()
    assert len(list(results)) < 50


def test_a_model_of_one_size_sees_resized_images_and_boxes_stay_those_of_the_image(tmp_path: Path) -> None:
    model = LineModel(save_model(tmp_path / "fixed.xml", (12, 16)))
    image = grey(0)
    image[:, 16:] = 255
    (result,) = inspect(model, [image])
    assert model.fixed_size == (12, 16)
    assert result.regions[0][:5] == (16, 0, 16, 24, 16 * 24)


def test_percentile_is_gumbels(tmp_path: Path) -> None:
    margin = 4.0
    # The threshold of 0.5 lies at the margin, and the mode at 0.25.
    for value, score in ((margin, 0.5), (0.0, 0.25), (2 * margin, 0.75)):
        assert percentile(score, margin) == pytest.approx(100 * stats.gumbel_r.cdf(value))
    (result,) = inspect(save_model(tmp_path / "ours.xml", good={"margin": margin}), [grey(0)])
    assert result.percentile is not None
    assert math.isclose(result.percentile, 0.0, abs_tol=1e-6)


@pytest.mark.parametrize(("name", "message"), [("none.xml", "no model"), ("model.txt", "named"), ("text.xml", "read")])
def test_what_is_no_model_is_said_in_one_line(name: str, message: str, tmp_path: Path) -> None:
    if name != "none.xml":
        (tmp_path / name).write_text("text")
    with pytest.raises((FileNotFoundError, ValueError), match=message) as caught:
        next(inspect(tmp_path / name, []))
    assert "\n" not in str(caught.value)
