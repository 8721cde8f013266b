"""The image-space baselines in what anomalib does with its own models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import MVTec
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import CNNFeatureDictionary, SSIMAutoencoder, get_model
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

METRICS = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"}


def small_ssim_autoencoder(**arguments: Any) -> SSIMAutoencoder:
    pre_processor = SSIMAutoencoder.configure_pre_processor((128, 128))
    return SSIMAutoencoder(**{"patch_size": 128, "latent_dim": 8, "pre_processor": pre_processor, **arguments})


def small_feature_dictionary(checkpoint: Path | None, **arguments: Any) -> CNNFeatureDictionary:
    small = {
        "patch_size": 17,
        "output_stride": 8,
        "source_layer": "layer2",
        "input_size": 32,
        "patches_per_image": 40,
        "pre_processor": CNNFeatureDictionary.configure_pre_processor((64, 64)),
    }
    return CNNFeatureDictionary(source_checkpoint=checkpoint, **{**small, **arguments})


def small_engine(folder: Path, **arguments: Any) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", logger=False, **arguments)


def predicted_map(model: AnomalibModule, data_root: Path, folder: Path) -> np.ndarray:
    (prediction,) = small_engine(folder).predict(model, data_path=data_root / "dots" / "test" / "square" / "000.png")
    return prediction.anomaly_map.squeeze().numpy()


@pytest.fixture(scope="module", params=["SSIMAutoencoder", "CNNFeatureDictionary"])
def trained(
    request: pytest.FixtureRequest,
    data_root: Path,
    resnet18_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[type[AnomalibModule], Path, dict[str, float], np.ndarray]:
    """Class, checkpoint, metrics and a map of a model that was trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    is_dictionary = request.param == "CNNFeatureDictionary"
    model = small_feature_dictionary(resnet18_checkpoint) if is_dictionary else small_ssim_autoencoder()
    engine = small_engine(folder) if is_dictionary else small_engine(folder, max_epochs=2)
    datamodule = MVTec(root=data_root, category="dots", eval_batch_size=2, num_workers=0)
    (metrics,) = engine.train(model, datamodule=datamodule)
    expected = predicted_map(model, data_root, folder)
    return type(model), Path(engine.best_model_path), metrics, expected


def test_trains_and_finds_the_squares(trained: tuple) -> None:
    assert trained[2].keys() == METRICS
    # After so little training, the map is only better than chance.
    assert trained[2]["pixel_AUROC"] > 0.65


def test_checkpoint_alone_restores_the_model(trained: tuple, data_root: Path, tmp_path: Path) -> None:
    model_class, checkpoint, _, expected = trained
    model = model_class.load_from_checkpoint(checkpoint)
    assert model.hparams.get("source_checkpoint") is None
    np.testing.assert_allclose(predicted_map(model, data_root, tmp_path), expected, atol=1e-6)


def test_openvino_gives_the_same_map(
    trained: tuple, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_class, checkpoint, _, expected = trained
    monkeypatch.chdir(tmp_path)
    exported = model_class.load_from_checkpoint(checkpoint).to_openvino(tmp_path)
    # The plugin chooses bfloat16 by itself on processors that have it.
    inferencer = OpenVINOInferencer(exported, config={"INFERENCE_PRECISION_HINT": "f32"})
    prediction = inferencer.predict(data_root / "dots" / "test" / "square" / "000.png")
    np.testing.assert_allclose(np.asarray(prediction.anomaly_map).squeeze(), expected, atol=2e-3)


def test_test_of_a_dictionary_without_training_is_one_clear_error(
    datamodule: MVTec, resnet18_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        small_engine(tmp_path).test(small_feature_dictionary(resnet18_checkpoint), datamodule=datamodule)


def test_checkpoint_of_another_network_is_one_clear_error(
    trained: tuple, datamodule: MVTec, resnet18_checkpoint: Path, tmp_path: Path
) -> None:
    if trained[0] is SSIMAutoencoder:
        model: AnomalibModule = small_ssim_autoencoder(latent_dim=9)
    else:
        model = small_feature_dictionary(resnet18_checkpoint, input_size=48)
    with pytest.raises(ValueError, match="checkpoint is of a model with"):
        small_engine(tmp_path).test(model, datamodule=datamodule, ckpt_path=trained[1])


def test_missing_source_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        small_feature_dictionary(tmp_path / "missing.safetensors")


def test_normalised_images_are_one_clear_error(datamodule: MVTec, tmp_path: Path) -> None:
    normalize = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    pre_processor = PreProcessor(transform=Compose([Resize((128, 128)), normalize]))
    model = small_ssim_autoencoder(pre_processor=pre_processor)
    with pytest.raises(ValueError, match="take the normalisation out of the pre-processor"):
        small_engine(tmp_path, max_epochs=1).fit(model, datamodule=datamodule)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (SSIMAutoencoder, {"patch_size": 100}, "patch_size must be one of"),
        (SSIMAutoencoder, {"lr": 0.0}, "lr must be positive"),
        (CNNFeatureDictionary, {"source": "bundled", "n_entries": 0}, "at least 1"),
        (CNNFeatureDictionary, {"source": "bundled", "n_samples": 0}, "n_samples"),
        (CNNFeatureDictionary, {"source": "resnet-18"}, "no model named"),
    ],
)
def test_argument_out_of_range_is_one_clear_error(
    model: type[AnomalibModule], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_get_model_knows_the_names() -> None:
    assert type(get_model("SSIMAutoencoder")) is SSIMAutoencoder
    dictionary = get_model({"class_path": "CNNFeatureDictionary", "init_args": {"source": "bundled"}})
    assert type(dictionary) is CNNFeatureDictionary


def test_autoencoder_trains_as_long_as_the_paper_unless_told_otherwise(tmp_path: Path) -> None:
    epochs = []
    for limits in ({}, {"max_epochs": 3}):
        engine = small_engine(tmp_path, **limits)
        engine._setup_trainer(small_ssim_autoencoder())
        epochs.append(engine.trainer.max_epochs)
    assert epochs == [200, 3]


def test_command_line_trains(
    anomalib: Callable[..., None],
    data_root: Path,
    resnet18_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ("--model", "CNNFeatureDictionary", "--model.source_checkpoint", resnet18_checkpoint)
    model += ("--model.source_layer", "layer2", "--model.input_size", "32", "--model.output_stride", "8")
    settings = ("--model.patch_size", "17", "--model.n_entries", "4", "--model.patches_per_image", "20")
    data = ("--data", "MVTec", "--data.root", data_root, "--data.category", "dots", "--data.num_workers", "0")
    trainer = ("--trainer.accelerator", "cpu", "--trainer.logger", "false")
    anomalib("train", *model, *settings, *data, *trainer)
    assert "pixel_AUPRO" in capsys.readouterr().out
    (checkpoint,) = tmp_path.rglob("model.ckpt")
    dictionary = CNNFeatureDictionary.load_from_checkpoint(checkpoint).model.dictionary
    assert torch.isfinite(dictionary.centres).all()
    assert len(dictionary.centres) == 4
