"""Tests of new thresholds: for models of others, and for exports and checkpoints of ours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models import UninformedStudents
from PIL import Image
from scipy import stats

from anomalib_students.false_alarms import fit_gumbel, margin
from anomalib_students.line import LineModel
from anomalib_students.line.adjust import adjust
from anomalib_students.line.command import main
from anomalib_students.line.drift import statistics_of_files
from anomalib_students.line.sources import Item, decode

from ..integration.conftest import write_category
from ..reliability.small import small_data, small_engine, small_model


def grey(level: float) -> np.ndarray:
    return np.full((20, 30, 3), round(level), np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a checkpoint, its export, and the images of its training."""
    folder = tmp_path_factory.mktemp("trained")
    write_category(folder / "dots", n_train=20)
    engine = small_engine(folder / "run")
    engine.fit(small_model(), datamodule=small_data(folder))
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    UninformedStudents.load_from_checkpoint(folder / "model.ckpt", map_location="cpu").to_openvino(folder)
    next(folder.rglob("model.xml")).parent.rename(folder / "export")
    return folder


def test_the_threshold_of_another_model_is_that_of_its_good_images(model: Path, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).gumbel(60, 6, 40).round()
    bad = [Item(str(level), grey(level)) for level in (100, 110, 140, 150)]
    changes = adjust(model, [Item(str(level), grey(level)) for level in levels], 0.05, bad)
    location, scale = fit_gumbel(torch.from_numpy(levels / 255))
    scales, lower, upper = margin(40, 0.05)
    threshold = location + scales * scale
    assert changes["threshold, formerly 0.5"] == pytest.approx(threshold, abs=1e-5)
    assert changes["90 % interval"] == f"{lower:.4f} to {upper:.4f}"
    assert (changes["found of the bad before"], changes["found of the bad now"]) == (0.5, 1.0)
    adjusted = LineModel(tmp_path / changes["model"])
    assert adjusted.good["statistics"]["brightness"]["mean"] == pytest.approx(levels.mean() / 255, abs=1e-5)
    for level in (20, 60, 90, 255):
        found, expected = adjusted.predict(grey(level)), (level / 255 - threshold) / (scales * scale)
        assert found.score == pytest.approx(0.5 + 0.5 * expected / (1 + abs(expected)), abs=1e-4)
        assert found.anomaly_map == pytest.approx(found.score, abs=1e-6)
        assert found.is_anomalous == found.mask.all() == (level / 255 > threshold)
    # What was adjusted can be adjusted again, from the scores that the model had at first.
    again = adjust(tmp_path / changes["model"], [Item(str(level), grey(level)) for level in levels + 20], 0.05)
    location, scale = fit_gumbel(torch.from_numpy((levels + 20) / 255))
    last = LineModel(tmp_path / again["model"])
    assert last.good["location"] == pytest.approx(location, abs=1e-5)
    assert last.predict(grey(255 * (location + scales * scale) + 1)).is_anomalous
    assert not last.predict(grey(255 * (location + scales * scale) - 1)).is_anomalous


def test_percentiles_are_those_of_the_good_images(model: Path, tmp_path: Path) -> None:
    levels = np.random.default_rng(1).gumbel(60, 6, 40).round()
    adjust(model, [Item(str(level), grey(level)) for level in levels])
    (tmp_path / "images").mkdir()
    Image.fromarray(grey(70)).save(tmp_path / "images" / "70.png")
    table = tmp_path / "results.jsonl"
    assert (
        main(["inspect", str(tmp_path / "model_adjusted.xml"), str(tmp_path / "images"), "--output", str(table)]) == 0
    )
    expected = stats.gumbel_r.cdf(70 / 255, *fit_gumbel(torch.from_numpy(levels / 255)))
    assert json.loads(table.read_text())["percentile"] == pytest.approx(100 * expected, abs=0.01)


@pytest.mark.parametrize(("levels", "add"), [([0] * 8, 0.0), ([200, 210, 220, 230, 240, 250], 0.0)], ids=["0", "high"])
def test_scores_that_show_no_threshold_are_refused(levels: list[int], add: float, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="show no threshold"):
        adjust(model, [Item(str(level), grey(level)) for level in levels])
    assert not list(tmp_path.glob("*adjusted*"))


def test_exports_carry_the_statistics_of_held_out_images(trained: Path) -> None:
    model = LineModel(trained / "export" / "model.xml")
    assert model.good["statistics"].keys() == {"brightness", "contrast", "sharpness", "width", "height", "score"}
    # Which five of the twenty are held out is not known here.
    everything = statistics_of_files({str(path): 0.0 for path in (trained / "dots/train/good").iterdir()})
    for name, (mean, std, count) in ((name, each.values()) for name, each in model.good["statistics"].items()):
        assert count == 5
        assert name == "score" or abs(mean - everything[name]["mean"]) < 2 * everything[name]["std"]
        assert std > 0


def test_what_is_found_before_and_now_is_the_same_of_a_checkpoint_and_its_export(trained: Path) -> None:
    """Images between good ones and noise, so that each threshold finds some of them."""
    good = [Item(str(path)) for path in sorted((trained / "dots/train/good").iterdir())]
    noise = np.random.default_rng(0).integers(256, size=decode(good[0]).shape)
    mixed = [(1 - share) * decode(good[0]) + share * noise for share in np.linspace(0, 0.5, 50)]
    bad = [Item(str(index), image.astype(np.uint8)) for index, image in enumerate(mixed)]
    of_checkpoint, of_export = (adjust(trained / name, good, 0.001, bad) for name in ("model.ckpt", "export/model.xml"))
    assert of_checkpoint["found of the bad before"] == of_export["found of the bad before"]
    assert of_checkpoint["found of the bad now"] == of_export["found of the bad now"]
    assert 0 < of_export["found of the bad now"] != of_export["found of the bad before"] < 1


def test_an_adjusted_export_scores_as_that_of_the_adjusted_checkpoint(trained: Path, tmp_path: Path) -> None:
    good = str(trained / "dots/train/good")
    for path in (trained / "model.ckpt", trained / "export" / "model.xml"):
        assert main(["adjust", str(path), "--good", good, "--rate", "0.1"]) == 0
    checkpoint = trained / "model_adjusted.ckpt"
    restored = UninformedStudents.load_from_checkpoint(checkpoint, map_location="cpu").post_processor
    assert restored.false_alarm_rate == 0.1
    assert restored.good_images[0] == 20
    assert restored.statistics["brightness"]["count"] == 20
    output = tmp_path / "check.json"
    export = trained / "export" / "model_adjusted.xml"
    data = str(trained / "dots" / "test")
    main(
        ["check", str(export), "--checkpoint", str(checkpoint), "--data", data, "--output", str(output), "--flips", "4"]
    )
    found = json.loads(output.read_text())[0]
    assert found["difference of scores, largest"] < 1e-4
    assert found["difference of maps, largest"] < 1e-3
    assert found["flipped labels"] == 0
