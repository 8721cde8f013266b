"""The baselines in what anomalib does with its own models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import MVTec
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import DescriptorBaseline, get_model

METHODS = ("nearest_neighbour", "k_means", "one_class_svm", "autoencoder", "variational_autoencoder")
QUICK: dict[str, dict[str, Any]] = {
    "autoencoder": {"epochs": 10, "lr": 1e-2},
    "variational_autoencoder": {"epochs": 10, "lr": 1e-2},
}


def small_baseline(method: str, **arguments: Any) -> DescriptorBaseline:
    return DescriptorBaseline(
        method=method,
        output_stride=8,
        settings=QUICK.get(method),
        pre_processor=DescriptorBaseline.configure_pre_processor((64, 64)),
        **arguments,
    )


def small_engine(folder: Path) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", logger=False)


@pytest.fixture(scope="module", params=METHODS)
def trained(
    request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, float], np.ndarray]:
    """Method, checkpoint, metrics and a map of a model that was trained."""
    engine = small_engine(tmp_path_factory.mktemp(request.param))
    datamodule = MVTec(root=data_root, category="dots", eval_batch_size=2, num_workers=0)
    model = small_baseline(request.param, n_samples=300)
    (metrics,) = engine.train(model, datamodule=datamodule)
    (prediction,) = engine.predict(model, data_path=data_root / "dots" / "test" / "square" / "000.png")
    return request.param, Path(engine.best_model_path), metrics, prediction.anomaly_map.squeeze().numpy()


def test_finds_the_squares(trained: tuple) -> None:
    metrics = trained[2]
    assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"} == metrics.keys()
    assert metrics["pixel_AUROC"] > 0.9


def test_checkpoint_alone_restores_the_model(trained: tuple, data_root: Path, tmp_path: Path) -> None:
    method, checkpoint, _, expected = trained
    model = DescriptorBaseline.load_from_checkpoint(checkpoint)
    assert (model.hparams["method"], model.hparams["n_samples"], model.hparams["teacher"]) == (method, 300, None)
    image = data_root / "dots" / "test" / "square" / "000.png"
    (prediction,) = small_engine(tmp_path).predict(model, data_path=image)
    np.testing.assert_allclose(prediction.anomaly_map.squeeze().numpy(), expected, atol=1e-6)


def test_openvino_gives_the_same_map(
    trained: tuple, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, checkpoint, _, expected = trained
    monkeypatch.chdir(tmp_path)
    exported = DescriptorBaseline.load_from_checkpoint(checkpoint).to_openvino(tmp_path)
    # The plugin chooses bfloat16 by itself on processors that have it.
    inferencer = OpenVINOInferencer(exported, config={"INFERENCE_PRECISION_HINT": "f32"})
    prediction = inferencer.predict(data_root / "dots" / "test" / "square" / "000.png")
    np.testing.assert_allclose(np.asarray(prediction.anomaly_map).squeeze(), expected, atol=1e-3)


def test_is_fitted_again_by_another_training(datamodule: MVTec, tmp_path: Path) -> None:
    model = small_baseline("k_means")
    centres = []
    for _ in range(2):
        small_engine(tmp_path).fit(model, datamodule=datamodule)
        centres.append(model.model.distribution.centres.clone())
    assert not torch.equal(*centres)


def test_checkpoint_of_another_method_is_one_clear_error(trained: tuple, datamodule: MVTec, tmp_path: Path) -> None:
    other = next(method for method in METHODS if method != trained[0])
    with pytest.raises(ValueError, match="checkpoint is of a model with method"):
        small_engine(tmp_path).test(small_baseline(other), datamodule=datamodule, ckpt_path=trained[1])


def test_test_without_training_is_one_clear_error(datamodule: MVTec, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        small_engine(tmp_path).test(small_baseline("k_means"), datamodule=datamodule)


def test_settings_for_the_students_do_for_the_baselines(datamodule: MVTec, tmp_path: Path) -> None:
    """Those of configs/mvtec_cpu.yaml, where only the teacher is for half precision."""
    trainer = {"max_epochs": 12, "check_val_every_n_epoch": 12, "precision": "bf16-mixed"}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, **trainer)
    model = small_baseline("nearest_neighbour")
    (metrics,) = engine.train(model, datamodule=datamodule)
    assert engine.trainer.current_epoch == 1
    assert metrics["pixel_AUROC"] > 0.9
    assert model.post_processor.pixel_max.isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"n_samples": 0}, "n_samples"), ({"descriptor_dim": 64}, "descriptor_dim 64"), ({"patch_size": 19}, "size 19")],
)
def test_argument_out_of_range_is_one_clear_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DescriptorBaseline(**arguments)


def test_get_model_knows_the_name() -> None:
    assert type(get_model("descriptor_baseline", method="k_means")) is DescriptorBaseline


def test_command_line_trains(
    anomalib: Callable[..., None], data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", "DescriptorBaseline", "--model.method", "k_means", "--model.output_stride", "8")
    settings = ("--model.settings.n_centres", "4", "--model.n_samples", "300")
    data = ("--data", "MVTec", "--data.root", data_root, "--data.category", "dots", "--data.num_workers", "0")
    trainer = ("--trainer.accelerator", "cpu", "--trainer.logger", "false")
    anomalib("train", *model, *settings, *data, *trainer)
    assert "pixel_AUPRO" in capsys.readouterr().out
    (checkpoint,) = tmp_path.rglob("model.ckpt")
    assert DescriptorBaseline.load_from_checkpoint(checkpoint).model.distribution.centres.shape[0] == 4
