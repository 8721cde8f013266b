"""Tests of drift: how often good images raise an alarm, and how soon others do."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from anomalib_students.line import DriftMonitor, inspect
from anomalib_students.line.command import main
from anomalib_students.line.drift import FEWEST, image_statistics, statistics_of_files, summarise

from .conftest import save_model

HELD_OUT = 27
"""Held-out images of a usual training: 10 % of 270."""


def workpiece(generator: np.random.Generator) -> Image.Image:
    """Picture a grooved disc in a light and at a place that differ a little from image to image."""
    rows, columns = np.mgrid[:96, :128] - generator.normal([[[48]], [[64]]], 1)
    disc = 0.3 + 0.4 * (np.hypot(rows, columns) < 30) * (1 + 0.2 * np.sin(columns))
    grey = 255 * generator.normal(1, 0.02) * (disc + generator.normal(0, 0.01, disc.shape))
    return Image.fromarray(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


@pytest.fixture(scope="module")
def good() -> dict:
    generator = np.random.default_rng(0)
    return summarise(image_statistics(np.asarray(workpiece(generator))) for _ in range(HELD_OUT))


@pytest.mark.slow
def test_ten_thousand_good_images_raise_no_alarm_in_19_of_20_simulations() -> None:
    generator = np.random.default_rng(0)

    def images(number: int) -> list[dict[str, float]]:
        """Draw six statistics of images from a distribution with a tail."""
        return [dict(enumerate(row)) for row in generator.gumbel(size=(number, 6)).tolist()]

    monitors = (DriftMonitor(summarise(images(HELD_OUT))) for _ in range(20))
    n_quiet = sum(not any(map(monitor.update, images(10_000))) for monitor in monitors)
    assert n_quiet >= 19


@pytest.mark.parametrize(
    ("change", "name", "sentence"),
    [
        (lambda image: image.point(lambda v: 0.8 * v), "brightness", r"brightness of the images is (19|20|21)% lower"),
        (lambda image: image.point(lambda v: 1.2 * v), "brightness", r"brightness of the images is (19|20|21)% higher"),
        (lambda image: image.filter(ImageFilter.GaussianBlur(1)), "sharpness", r"sharpness of the images is \d\d% lo"),
        (lambda image: Image.fromarray(np.roll(image, 13, axis=1)), "width", r"moved by \+[89]\.\d% of their width"),
        (lambda image: image, None, ""),
    ],
    ids=["dark", "bright", "blurred", "shifted", "good"],
)
def test_a_change_is_reported_within_100_images(
    change: Callable[[Image.Image], Image.Image], name: str | None, sentence: str, good: dict
) -> None:
    generator = np.random.default_rng(1)
    monitor = DriftMonitor(good)
    for _ in range(50):
        assert not monitor.update(image_statistics(np.asarray(workpiece(generator))))
    drifts = ()
    for _ in range(100):
        drifts = monitor.update(image_statistics(np.asarray(change(workpiece(generator)))))
    found = {drift.name: str(drift) for drift in drifts}
    assert {each for each, status in monitor.status().items() if status["drifts"]} == found.keys()
    assert bool(found) == (name is not None)
    if name is not None:
        assert re.search(sentence, found[name])
        # The alarm ends with its cause.
        for _ in range(100):
            drifts = monitor.update(image_statistics(np.asarray(workpiece(generator))))
        assert not drifts


def test_one_odd_image_and_one_without_statistics_are_no_drift(good: dict) -> None:
    monitor = DriftMonitor(good)
    assert not monitor.update(image_statistics(np.zeros((50, 60, 3), np.uint8)))
    assert not monitor.update({})
    assert not DriftMonitor({}).update({"brightness": 1.0})
    assert summarise([{"brightness": 0.5}] * (FEWEST - 1)) == {}


def test_scores_of_images_called_good_drift(tmp_path: Path) -> None:
    statistics = {"score": {"mean": 0.2, "std": 0.02, "count": HELD_OUT}}
    model = save_model(tmp_path / "model.xml", good={"margin": 5.0, "statistics": statistics})
    grey, white = np.full((20, 30, 3), 100, np.uint8), np.full((20, 30, 3), 255, np.uint8)
    assert not any(result.drifts for result in inspect(model, [white] * 40))
    *_, last = inspect(model, [grey] * 40)
    assert str(last.drifts[0]) == "the score of images called good has changed from 0.20 to 0.39"


def test_rows_terminal_and_dashboard_have_the_drift(
    good: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(2)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(30):
        workpiece(generator).point(lambda v: 0.7 * v).save(folder / f"{number:02}.png")
    model = save_model(tmp_path / "model.xml", good={"margin": 5.0, "statistics": good})
    table = tmp_path / "results.csv"
    assert main(["inspect", str(model), str(folder), "--output", str(table), "--heatmaps", "none"]) == 0
    printed = capsys.readouterr().err
    assert len(re.findall(r"Drift at .*/\d\d.png: the brightness of the images is 3[01]% lower", printed)) == 1
    assert "30 images, 30 anomalous, 0 errors" in printed
    assert "drift: brightness" in printed
    with table.open(newline="") as file:
        rows = [row["drift"] for row in csv.DictReader(file)]
    assert rows[0] == ""
    assert "brightness" in rows[-1].split("; ")
    status = json.loads((tmp_path / "results" / "status.json").read_text())
    assert (status["images"], status["errors"]) == (30, 0)
    assert status["drift"]["brightness"]["drifts"]
    assert status["drift"]["brightness"]["median"] == pytest.approx(0.7 * good["brightness"]["mean"], rel=0.03)


def test_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    scores = {str(tmp_path / f"{number}.png"): number / 10 for number in range(6)}
    for path in scores:
        workpiece(generator).save(path)
    (tmp_path / "0.png").write_bytes(b"no image")
    found = statistics_of_files(scores)
    assert found["score"]["mean"] == pytest.approx(0.3)
    assert {each["count"] for each in found.values()} == {5}
