"""What an export leaves: files, log lines, and a model that goes on as before."""

import logging
import shutil
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from anomalib.deploy import CompressionType

from anomalib_students import UninformedStudents
from anomalib_students.export import exact_export

from ..reliability.small import SIDE, small_data, small_engine, small_model

EXPORTS = {
    "torch": UninformedStudents.to_torch,
    "onnx": UninformedStudents.to_onnx,
    "openvino": UninformedStudents.to_openvino,
}


@pytest.fixture(scope="module")
def model() -> UninformedStudents:
    """Model as it is while it trains: its teacher evaluates."""
    return small_model()


def _modes(model: torch.nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_an_export_is_quiet_and_leaves_the_model_in_its_mode(
    export, model, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    before = _modes(model)
    assert len(set(before.values())) == 2
    levels = {name: logging.getLogger(name).level for name in exact_export.TALKATIVE}
    capfd.readouterr()
    # The level of anomalib's command line.
    with caplog.at_level(logging.INFO):
        export(model, tmp_path)
    assert len(caplog.records) <= 1
    assert capfd.readouterr().out.strip() == ""
    assert _modes(model) == before
    assert {name: logging.getLogger(name).level for name in levels} == levels


def test_a_quantised_export_is_quiet(model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = small_data(tmp_path / "data")
    path = model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=data)
    assert path.is_file()
    printed = "".join(capfd.readouterr())
    assert "INFO" not in printed
    assert "[torch.onnx]" not in printed


def test_training_goes_on_after_an_export(model, tmp_path: Path) -> None:
    model.to_onnx(tmp_path)
    small_engine(tmp_path, max_epochs=1).fit(model, datamodule=small_data(tmp_path / "data"))


def test_onnx_weights_are_in_the_file_itself(model, tmp_path: Path) -> None:
    path = model.to_onnx(tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    alone = shutil.copy(path, tmp_path / "alone.onnx")
    shutil.rmtree(tmp_path / "weights")
    images = torch.rand(1, 3, SIDE, SIDE)
    with exact_export.keeping_mode(model):
        expected = model.eval()(images)
    (result,) = (
        openvino.compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"input": images.numpy()})[name]
        for name in ["anomaly_map"]
    )
    np.testing.assert_allclose(result, expected.anomaly_map, atol=1e-3, rtol=1e-4)


def test_large_onnx_weights_are_in_a_second_file(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of more than two gigabytes could not be written."""
    monkeypatch.setattr(exact_export, "LARGEST_ONNX_FILE", exact_export.ONNX_GRAPH + 10_000)
    path = model.to_onnx(tmp_path)
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", "model.onnx.data"}


@pytest.mark.parametrize("compression_type", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_quantisation_without_data_is_refused_in_the_words_of_anomalib(model, compression_type, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Datamodule must be provided for OpenVINO INT8_PTQ compression"):
        model.to_openvino(tmp_path, compression_type=compression_type)
    assert list(tmp_path.iterdir()) == []
