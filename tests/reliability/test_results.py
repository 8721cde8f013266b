"""Results are neither lost nor in the way of the next command."""

import math
from pathlib import Path

import pytest
import torch

from .small import small_data, small_engine, small_model


def test_a_test_before_the_first_training_is_not_in_its_way(tmp_path: Path) -> None:
    datamodule = small_data(tmp_path / "data")
    model = small_model(visualizer=True)
    small_engine(tmp_path / "results").test(model, datamodule=datamodule)
    tested = {path.name for path in (tmp_path / "results").rglob("*.png")}
    assert tested
    engine = small_engine(tmp_path / "results")
    engine.fit(model, datamodule=datamodule)
    folder = tmp_path / "results" / "UninformedStudents" / "MVTec" / "dots"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "v0", "v1"]
    assert {path.name for path in (folder / "v0").rglob("*.png")} == tested
    assert (folder / "latest" / "weights" / "lightning" / "model.ckpt").samefile(engine.best_model_path)


def test_metrics_without_anomalous_test_images_are_nan_and_not_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule = small_data(tmp_path / "data")
    for image in (tmp_path / "data").rglob("*/square/*.png"):
        image.unlink()
    (metrics,) = small_engine(tmp_path / "results").test(small_model(), datamodule=datamodule)
    assert {"image_AUROC", "image_F1Score"} <= metrics.keys()
    for name, value in metrics.items():
        assert math.isnan(value)
        assert any(message.startswith(f"{name} can't be measured") for message in caplog.messages)


def test_a_resumed_training_tests_what_it_has_trained(tmp_path: Path) -> None:
    datamodule = small_data(tmp_path / "data")
    engine = small_engine(tmp_path / "results", max_epochs=1)
    engine.fit(small_model(), datamodule=datamodule)
    model = small_model()
    resumed = small_engine(tmp_path / "results", max_epochs=2)
    resumed.train(model, datamodule=datamodule, ckpt_path=engine.best_model_path)
    (written,) = (tmp_path / "results").rglob("v1/weights/lightning/model.ckpt")
    student = "model.ensembles.p17.students.0.convolutions.0.weight"
    assert torch.equal(model.state_dict()[student], torch.load(written, weights_only=False)["state_dict"][student])
