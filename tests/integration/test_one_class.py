"""One-class classification from end to end: the mode ``patch`` with what anomalib does with every model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import MVTec, OneClassMNIST
from anomalib.deploy import ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import DescriptorBaseline, UninformedStudents
from anomalib.models.components import AnomalibModule
from anomalib.visualization import ImageVisualizer

from anomalib_students import ScaleMetrics
from anomalib_students.model.lightning_model import PAPER
from anomalib_students.model.merge import merge_scales
from anomalib_students.model.normalization_split import split_indices

SMALL = {**PAPER, "mode": "patch", "patch_sizes": (33,), "n_students": 2, "lr": 1e-3}


def small_engine(folder: Path, **arguments: Any) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", **{"max_epochs": 1, **arguments})


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def digits(mnist_root: Path, cache_dir: Path) -> OneClassMNIST:
    return OneClassMNIST(mnist_root, 1, cache_dir=cache_dir, train_batch_size=4, eval_batch_size=5)


@pytest.fixture(scope="module")
def trained(mnist_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a model of the digit 1, from a seed: there are too few images for any to do."""
    torch.manual_seed(3)
    engine = small_engine(tmp_path_factory.mktemp("trained"), max_epochs=4, check_val_every_n_epoch=4)
    engine.fit(
        UninformedStudents(**SMALL), datamodule=OneClassMNIST(mnist_root, 1, cache_dir=cache_dir, train_batch_size=4)
    )
    return Path(engine.best_model_path)


def test_checkpoint_tests_and_predicts(trained: Path, digits: OneClassMNIST, tmp_path: Path) -> None:
    model, engine = UninformedStudents(**SMALL), small_engine(tmp_path)
    (results,) = engine.test(model, datamodule=digits, ckpt_path=trained)
    assert results.keys() == {"image_AUROC", "image_F1Score"}
    assert results["image_AUROC"] > 0.9
    # There is nothing to show.
    assert not list(tmp_path.rglob("*.png"))

    predictions = engine.predict(model, datamodule=digits, ckpt_path=trained)
    assert sum(len(batch.pred_score) for batch in predictions) == 18
    assert all(batch.anomaly_map is None and batch.pred_mask is None for batch in predictions)
    assert all(batch.pred_label.dtype == torch.bool for batch in predictions)
    assert engine.predict(model, ckpt_path=trained, data_path=digits.image_folder / "test" / "7")[0].pred_score <= 1


def test_checkpoint_alone_restores_the_model(trained: Path, digits: OneClassMNIST, tmp_path: Path) -> None:
    restored = UninformedStudents.load_from_checkpoint(trained)
    assert (restored.model.mode, restored.visualizer) == ("patch", None)
    (expected,) = small_engine(tmp_path).test(UninformedStudents(**SMALL), datamodule=digits, ckpt_path=trained)
    assert small_engine(tmp_path).test(restored, datamodule=digits) == [expected]


def test_statistics_are_those_of_the_data(trained: Path, digits: OneClassMNIST) -> None:
    """Descriptors over the training images, scores over those held out: computed here in one piece, in float64."""
    model = UninformedStudents.load_from_checkpoint(trained).eval()
    digits.setup()
    images = torch.stack([digits.train_data[index].image for index in range(len(digits.train_data))])
    patches = model.pre_processor.transform(images.as_subclass(torch.Tensor)).double()
    assert patches.shape == (18, 3, 33, 33)
    training, held_out = split_indices(18, 0.1)
    assert (len(training), len(held_out)) == (14, 4)

    ensemble = model.model.ensembles["p33"].double()
    with torch.no_grad():
        descriptors = ensemble.teacher(patches[training])[:, :, 0, 0]
        students = torch.stack([student(patches[held_out])[:, :, 0, 0] for student in ensemble.students])
        target = (ensemble.teacher(patches[held_out]) - ensemble.descriptor_mean) / ensemble.descriptor_std
    error = (students.mean(dim=0) - target[:, :, 0, 0]).square().sum(dim=1)
    uncertainty = students.var(dim=0, correction=0).sum(dim=1)
    expected = {
        "descriptor_mean": descriptors.mean(dim=0).view(-1, 1, 1),
        "descriptor_std": descriptors.std(dim=0, correction=0).view(-1, 1, 1),
        "error_mean": error.mean(),
        "error_std": error.std(correction=0),
        "uncertainty_mean": uncertainty.mean(),
        "uncertainty_std": uncertainty.std(correction=0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(ensemble, name), value, rtol=1e-3, atol=1e-4, msg=name)


def test_exported_models_give_what_the_engine_gives(
    trained: Path, digits: OneClassMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_exports_agree(UninformedStudents.load_from_checkpoint(trained).eval(), digits, tmp_path, monkeypatch)


def assert_exports_agree(
    model: AnomalibModule, digits: OneClassMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the exported models with the engine, on one image of each digit."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)
    exported = {kind: small_engine(tmp_path).export(model, kind, export_root=tmp_path) for kind in ExportType}
    # The plugin chooses bfloat16 by itself on processors that have it.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    inferencers = [
        TorchInferencer(exported[ExportType.TORCH], device="cpu"),
        OpenVINOInferencer(exported[ExportType.ONNX], device="CPU", config=config),
        OpenVINOInferencer(exported[ExportType.OPENVINO], device="CPU", config=config),
    ]
    digits.setup()
    for path in digits.test_data.samples["image_path"][::9]:
        (expected,) = small_engine(tmp_path).predict(model, data_path=path)
        for inferencer in inferencers:
            prediction = inferencer.predict(path)
            assert float(np.squeeze(prediction.pred_score)) == pytest.approx(float(expected.pred_score), abs=1e-3)
            assert bool(np.squeeze(prediction.pred_label)) == bool(expected.pred_label)
            assert prediction.anomaly_map is None


@pytest.fixture(scope="module")
def trained_baseline(mnist_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of the descriptors of all training images of the digit 1."""
    model = DescriptorBaseline(method="nearest_neighbour", mode="patch")
    assert model.n_samples == 1_000_000
    engine = small_engine(tmp_path_factory.mktemp("baseline"))
    (results,) = engine.train(model, datamodule=OneClassMNIST(mnist_root, 1, cache_dir=cache_dir, train_batch_size=4))
    assert results.keys() == {"image_AUROC", "image_F1Score"}
    assert results["image_AUROC"] > 0.9
    # All but the two that the threshold is measured on.
    assert len(model.model.distribution.dictionary) == 18
    assert not list(Path(engine.trainer.default_root_dir).rglob("*.png"))
    return Path(engine.best_model_path)


def test_checkpoint_alone_restores_a_baseline(trained_baseline: Path, digits: OneClassMNIST, tmp_path: Path) -> None:
    restored = DescriptorBaseline.load_from_checkpoint(trained_baseline)
    assert (restored.hparams["mode"], restored.hparams["teacher"], restored.visualizer) == ("patch", None, None)
    fresh = DescriptorBaseline(method="nearest_neighbour", mode="patch")
    (expected,) = small_engine(tmp_path).test(fresh, datamodule=digits, ckpt_path=trained_baseline)
    assert small_engine(tmp_path).test(restored, datamodule=digits) == [expected]


def test_exported_baselines_give_what_the_engine_gives(
    trained_baseline: Path, digits: OneClassMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DescriptorBaseline.load_from_checkpoint(trained_baseline).eval()
    assert_exports_agree(model, digits, tmp_path, monkeypatch)


def test_modes_of_baselines_are_not_mixed(trained_baseline: Path, digits: OneClassMNIST, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint is of a model with mode patch, but the model has pixel"):
        small_engine(tmp_path).test(
            DescriptorBaseline(method="nearest_neighbour"), datamodule=digits, ckpt_path=trained_baseline
        )


def test_anomalibs_visualizer_can_be_asked_for(trained: Path, digits: OneClassMNIST, tmp_path: Path) -> None:
    model = UninformedStudents.load_from_checkpoint(trained)
    model.visualizer = ImageVisualizer(field_size=(32, 32))
    small_engine(tmp_path).test(model, datamodule=digits)
    assert len(list(tmp_path.rglob("images/**/*.png"))) == 18


def test_several_patch_sizes_score_together(digits: OneClassMNIST, tmp_path: Path) -> None:
    model = UninformedStudents(**{**SMALL, "patch_sizes": (17, 33)})
    engine = small_engine(tmp_path, callbacks=[ScaleMetrics()])
    engine.fit(model, datamodule=digits)
    (results,) = engine.test(model, datamodule=digits)
    assert results.keys() == {"image_AUROC", "image_F1Score", "p17_image_AUROC", "p33_image_AUROC"}


def test_modes_are_not_mixed(trained: Path, digits: OneClassMNIST, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint is of a model with mode patch, but the model has pixel"):
        small_engine(tmp_path).test(
            UninformedStudents(**{**SMALL, "mode": "pixel"}), datamodule=digits, ckpt_path=trained
        )

    checkpoint = torch.load(trained, weights_only=False)
    del checkpoint["hyper_parameters"]["mode"]
    UninformedStudents(**{**SMALL, "mode": "pixel"}).on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="model with mode pixel, but the model has patch"):
        UninformedStudents(**SMALL).on_load_checkpoint(checkpoint)


def test_models_of_patches_are_not_merged() -> None:
    models = [UninformedStudents(**{**SMALL, "patch_sizes": (size,), "n_students": 1}) for size in (17, 33)]
    with pytest.raises(ValueError, match="Models of the mode 'patch' cannot be merged"):
        merge_scales(models)


def test_any_image_data_have_one_score_for_each_image(data_root: Path, tmp_path: Path) -> None:
    datamodule = MVTec(root=data_root, category="dots", num_workers=0, train_batch_size=2)
    results = small_engine(tmp_path, precision="bf16-mixed").train(UninformedStudents(**SMALL), datamodule=datamodule)
    assert results[0].keys() == {"image_AUROC", "image_F1Score"}


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("UninformedStudents", {"model.patch_sizes": "[33]", "model.n_students": 1}),
        ("DescriptorBaseline", {"model.method": "k_means", "model.settings.n_centres": 3}),
    ],
)
def test_command_line_trains_and_tests(
    model: str,
    arguments: dict[str, Any],
    anomalib: Callable[..., None],
    mnist_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = {
        "model": model,
        "model.mode": "patch",
        **arguments,
        "data": "OneClassMNIST",
        "data.normal_class": 0,
        "data.root": mnist_root / "MNIST",
        "data.cache_dir": tmp_path / "cache",
        "data.train_limit": 12,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.logger": json.dumps(False),
    }
    anomalib("train", *(part for name, value in arguments.items() for part in (f"--{name}", value)))
    assert "image_AUROC" in capsys.readouterr().out
    run = tmp_path / "results" / model / "OneClassMNIST" / "0" / "latest"
    assert (run / "weights" / "lightning" / "model.ckpt").is_file()
