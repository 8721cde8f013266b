"""Exported models give what the engine gives, in anomalib's own inferencers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTec
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from anomalib.post_processing import PostProcessor
from openvino import Core
from PIL import Image
from torchvision.transforms.v2 import functional

SIDE = 64


@pytest.fixture(scope="module")
def model(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> UninformedStudents:
    """Trained model of two scales, whose input is smaller than the images."""
    arguments = {"preset": "paper", "patch_sizes": (17, 33), "n_students": 2, "output_stride": 4, "lr": 1e-3}
    model = UninformedStudents(pre_processor=UninformedStudents.configure_pre_processor((SIDE, SIDE)), **arguments)
    engine = Engine(default_root_dir=tmp_path_factory.mktemp("run"), max_epochs=1, accelerator="cpu")
    engine.fit(model, datamodule=MVTec(root=data_root, category="dots", num_workers=0))
    return model.eval()


@pytest.fixture(scope="module")
def export(model: UninformedStudents, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Export the model to OpenVINO, once with the same arguments."""

    @cache
    def export(input_size: tuple[int, int] | None, quantised: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("export")
        datamodule = MVTec(root=data_root, category="dots", eval_batch_size=2, num_workers=0)
        compression = {"compression_type": CompressionType.INT8_PTQ, "datamodule": datamodule} if quantised else {}
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.chdir(folder)
            path = model.to_openvino(folder, input_size=input_size, **compression)
        assert datamodule.eval_batch_size == 2
        return path

    return export


@pytest.fixture(scope="module", params=["larger", "of_input_size"])
def image(request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Defective image, as the camera delivers it or resized to the model's input."""
    original = data_root / "dots" / "test" / "square" / "000.png"
    if request.param == "larger":
        return original
    path = tmp_path_factory.mktemp("image") / "resized.png"
    Image.open(original).resize((SIDE, SIDE)).save(path)
    return path


@pytest.fixture
def expected(model: UninformedStudents, image: Path, tmp_path: Path) -> tuple[float, np.ndarray]:
    """Normalised score and map of the engine."""
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu")
    prediction = engine.predict(model, data_path=image)[0]
    return float(prediction.pred_score), prediction.anomaly_map.squeeze().numpy()


def _assert_same(prediction: object, expected: tuple[float, np.ndarray]) -> None:
    assert float(np.asarray(prediction.pred_score).squeeze()) == pytest.approx(expected[0], abs=1e-3)
    np.testing.assert_allclose(np.asarray(prediction.anomaly_map).squeeze(), expected[1], atol=1e-3)


def test_torch_inferencer(
    model: UninformedStudents,
    image: Path,
    expected: tuple[float, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    _assert_same(TorchInferencer(model.to_torch(tmp_path), device="cpu").predict(image), expected)


@pytest.mark.parametrize("input_size", [None, (SIDE, SIDE)], ids=["any_size", "fixed_size"])
def test_openvino_inferencer(
    input_size: tuple[int, int] | None, export: Callable[..., Path], image: Path, expected: tuple[float, np.ndarray]
) -> None:
    if input_size is not None and Image.open(image).size != input_size:
        pytest.skip("a model of fixed input size takes images of that size only")
    # The plugin chooses bfloat16 by itself on processors that have it.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    _assert_same(OpenVINOInferencer(export(input_size), config=config).predict(image), expected)


@pytest.mark.slow
@pytest.mark.parametrize("input_size", [None, (SIDE, SIDE)], ids=["any_size", "fixed_size"])
def test_quantised_model_sees_the_same_defects(
    input_size: tuple[int, int] | None, export: Callable[..., Path], image: Path, expected: tuple[float, np.ndarray]
) -> None:
    if input_size is not None and Image.open(image).size != input_size:
        pytest.skip("a model of fixed input size takes images of that size only")
    exported = export(input_size, quantised=True)
    assert "FakeQuantize" in {operation.get_type_name() for operation in Core().read_model(exported).get_ops()}
    quantised = np.asarray(OpenVINOInferencer(exported).predict(image).anomaly_map).squeeze()
    assert np.corrcoef(quantised.ravel(), expected[1].ravel())[0, 1] > 0.97


@pytest.mark.slow
def test_quantised_without_validation_images(
    model: UninformedStudents, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training images calibrate, and no range of the scores is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "post_processor", PostProcessor())
    image = data_root / "dots" / "test" / "square" / "000.png"
    with torch.inference_mode():
        expected = model(functional.to_image(Image.open(image)).unsqueeze(0) / 255).anomaly_map.numpy()
    datamodule = MVTec(root=data_root, category="dots", num_workers=0, val_split_mode="none")
    exported = model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=datamodule)
    quantised = np.asarray(OpenVINOInferencer(exported).predict(image).anomaly_map).squeeze()
    # No defect is among the images that calibrate, so that the largest scores are clipped.
    assert np.corrcoef(quantised.ravel(), expected.ravel())[0, 1] > 0.97
