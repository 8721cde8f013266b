"""What an export leaves: files that compute what the engine does, log lines, and a model that goes on as before."""

import logging
import shutil
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from openvino import opset13
from scipy import stats
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize, Transform

from anomalib_students import FalseAlarmPostProcessor
from anomalib_students.export import int8
from anomalib_students.export import openvino as exports
from anomalib_students.line import LineModel
from anomalib_students.line.inspection import percentile

from ..reliability.small import SIDE, small_data, small_model

NORMALIZE = Normalize([0.5] * 3, [0.2] * 3)


@pytest.fixture(scope="module")
def model() -> UninformedStudents:
    """Model as it is while it trains: its teacher evaluates."""
    return small_model()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a model with thresholds."""
    path = tmp_path_factory.mktemp("run") / "model.ckpt"
    model = small_model(output_stride=8)
    model.post_processor.choose(torch.linspace(1, 2, 30))
    trainer = model.trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def compiled(path: Path) -> openvino.CompiledModel:
    return openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize(
    "pre_processor",
    [False, PreProcessor(Compose([Resize(24), NORMALIZE])), PreProcessor(Compose([Resize((32, 40)), CenterCrop(24)]))],
    ids=["none", "shorter_side", "square"],
)
def test_images_of_any_size_are_scored_as_by_the_engine(pre_processor: PreProcessor | bool, tmp_path: Path) -> None:
    model = small_model(pre_processor=pre_processor, whitening=True, local_mean=0.5).eval()
    for scale in model.model.scales:
        scale.error_weighting.add_(0.1 * torch.randn(208, 208, generator=torch.Generator().manual_seed(1)))
        scale.error_pattern.uniform_(0.5, 2)
        scale.softening.fill_(2)
    exported = compiled(model.to_openvino(tmp_path))
    for size in ((40, 57), (70, 33), (36, 36)):
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        seen = pre_processor.transform(images) if pre_processor else images
        expected = model.post_processor(model.model(seen))
        result = exported(images)
        np.testing.assert_allclose(result["anomaly_map"], expected.anomaly_map, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(result["pred_score"], expected.pred_score, rtol=1e-4)


@pytest.mark.parametrize("transform", [Compose([Resize(40), CenterCrop(32)]), CenterCrop(64)])
def test_a_transform_that_needs_the_size_says_so(transform: Transform, tmp_path: Path) -> None:
    model = small_model(pre_processor=PreProcessor(transform))
    with pytest.raises(ValueError, match="input_size"):
        model.to_openvino(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert model.to_onnx(tmp_path, input_size=(48, 64)).is_file()


def test_the_arguments_of_an_export_are_those_of_the_exported_model(checkpoint: Path, tmp_path: Path) -> None:
    """``Engine.export`` loads the checkpoint into another model than the one that the command line makes."""
    exported = []

    class Recorded(UninformedStudents):
        def __init__(self, **arguments):
            super().__init__(**arguments)

        def to_torch(self, **_):
            exported.append(self)

    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    for arguments in ({}, {"output_stride": 4, "post_processor": FalseAlarmPostProcessor(false_alarm_rate=0.2)}):
        engine.export(Recorded(**arguments), "torch", ckpt_path=checkpoint)
    as_saved, as_named = exported
    assert (as_saved.model.output_stride, as_saved.post_processor.false_alarm_rate) == (8, 0.01)
    assert (as_named.model.output_stride, as_named.post_processor.false_alarm_rate) == (4, 0.2)
    assert as_named.post_processor.image_threshold < as_saved.post_processor.image_threshold
    assert as_named.model.patch_sizes == as_saved.model.patch_sizes == (83,)
    assert UninformedStudents.load_from_checkpoint(checkpoint).model.output_stride == 8


def test_an_export_is_quiet_and_leaves_the_model_in_its_mode(
    model, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model.model.eval()
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2
    levels = {name: logging.getLogger(name).level for name in exports.TALKATIVE}
    capfd.readouterr()
    # The level of anomalib's command line.
    with caplog.at_level(logging.INFO):
        model.to_openvino(tmp_path)
    assert len(caplog.records) <= 1
    assert capfd.readouterr().out.strip() == ""
    assert {name: module.training for name, module in model.named_modules()} == before
    assert {name: logging.getLogger(name).level for name in levels} == levels


@pytest.mark.parametrize("kind", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_a_quantised_export_is_quiet_and_warns_only_of_other_scores(
    kind, model, tmp_path, monkeypatch, caplog, capfd
) -> None:
    arguments = {"compression_type": kind, "datamodule": small_data(tmp_path / "data")}
    assert model.to_openvino(tmp_path, **arguments).is_file()
    printed = "".join(capfd.readouterr())
    assert "INFO" not in printed
    assert "[torch.onnx]" not in printed
    assert "differently" not in caplog.text
    monkeypatch.setattr(int8, "quantise", lambda model, _: _with_other_scores(model))
    monkeypatch.setattr(int8, "quantise_controlled", lambda model, *_: _with_other_scores(model))
    model.to_openvino(tmp_path, **arguments)
    assert "scores images differently" in caplog.text


def test_quantised_exports_keep_what_students_cannot_follow(tmp_path):
    """Nothing of the teacher is quantised."""
    pre_processor = UninformedStudents.configure_pre_processor((96, 96))
    model = UninformedStudents(patch_sizes=(83,), pre_processor=pre_processor)
    data = small_data(tmp_path / "data")
    path = model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=data)
    quantised = set()
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            source = node.input_value(0).get_node()
            if source.get_type_name() == "FakeQuantize":
                quantised.add(tuple(node.input_value(1).get_shape()))
    assert quantised == {tuple(layer.weight.shape) for layer in model.model.scales[0].students[0].convolutions}


def _with_other_scores(model: openvino.Model) -> openvino.Model:
    score = model.output("pred_score").get_node().input_value(0)
    other = opset13.multiply(score, np.float32(1.1))
    model.output("pred_score").get_node().input(0).replace_source_output(other.output(0))
    return model


def test_quantisation_without_the_data_that_it_needs_is_refused(model, tmp_path: Path) -> None:
    for kind in exports.QUANTISED:
        with pytest.raises(ValueError, match=f"Datamodule must be provided for OpenVINO {kind.name} compression"):
            model.to_openvino(tmp_path / "export", compression_type=kind)
    assert not (tmp_path / "export").exists()
    data = small_data(tmp_path)
    for folder in ("test", "ground_truth"):
        shutil.rmtree(tmp_path / "dots" / folder / "square")
    with pytest.raises(ValueError, match="of which none is anomalous: choose INT8_PTQ"):
        int8.quantise_controlled(None, data, None, 0.01)


def test_onnx_weights_are_in_the_file_itself(model, tmp_path: Path) -> None:
    path = model.to_onnx(tmp_path, input_size=(SIDE, SIDE))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_exports_carry_where_their_threshold_lies_among_good_images(tmp_path):
    model = UninformedStudents(patch_sizes=(83,), image_size=64)
    scores = torch.from_numpy(np.random.default_rng(0).gumbel(5, 0.5, size=200))
    model.post_processor.choose(scores)
    exported = LineModel(model.to_openvino(tmp_path, input_size=(64, 64)))
    _, location, scale = model.post_processor.good_images.tolist()
    raw = torch.tensor([location - scale, location, location + 3 * scale])
    post_processor = model.post_processor
    limits = post_processor.image_min, post_processor.image_max, post_processor.image_threshold
    expected = 100 * stats.gumbel_r.cdf(raw.double(), location, scale)
    found = [percentile(float(score), exported.good["margin"]) for score in post_processor._normalize(raw, *limits)]
    assert found == pytest.approx(expected.tolist(), abs=1e-3)
    post_processor.rule = "f1"
    assert post_processor.good_statistics == {}
