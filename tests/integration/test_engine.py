"""What anomalib's public API does with its own models, done with ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from sklearn.metrics import roc_auc_score

from .conftest import SMALL, small_engine, small_model


@pytest.mark.filterwarnings("error:Be aware that when using")
def test_checkpoint_validates_tests_and_predicts(trained: Path, datamodule: MVTec, tmp_path: Path) -> None:
    model, engine = small_model(), small_engine(tmp_path)
    engine.validate(model, datamodule=datamodule, ckpt_path=trained)
    results = engine.test(model, datamodule=datamodule, ckpt_path=trained)
    predictions = engine.predict(model, datamodule=datamodule, ckpt_path=trained)
    masks, maps = (
        torch.cat([getattr(batch, name).flatten() for batch in predictions]) for name in ("gt_mask", "anomaly_map")
    )
    assert results[0]["pixel_AUROC"] == pytest.approx(roc_auc_score(masks, maps), abs=1e-4)
    assert all(batch.anomaly_map.shape[-2:] == (64, 64) for batch in predictions)
    assert list(tmp_path.rglob("square/*.png")), "no visualisation was written"


def test_checkpoint_alone_restores_the_model(trained: Path, datamodule: MVTec, tmp_path: Path) -> None:
    restored = UninformedStudents.load_from_checkpoint(trained)
    assert restored.hparams["teacher"] is None
    assert restored.model.patch_sizes == (83,)
    expected = small_engine(tmp_path).test(small_model(), datamodule=datamodule, ckpt_path=trained)
    assert small_engine(tmp_path).test(restored, datamodule=datamodule) == expected


@pytest.mark.parametrize("arguments", [{"patch_sizes": (83, 167)}, {"n_students": 3}])
def test_checkpoint_of_another_model_is_one_clear_error(
    arguments: dict[str, Any], trained: Path, datamodule: MVTec, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"checkpoint is of a model with {next(iter(arguments))}"):
        small_engine(tmp_path).test(small_model(**arguments), datamodule=datamodule, ckpt_path=trained)


def test_statistics_are_those_of_the_data(data_root: Path, tmp_path: Path) -> None:
    """Descriptors over the training images, scores over the held-out one: computed here in one piece, in float64."""
    from anomalib_students.model.anomaly_map import predictive_uncertainty, regression_error
    from anomalib_students.model.hold_out import split_indices
    from anomalib_students.networks.dense import dense_descriptors, pad_border

    model = small_model(light_jitter=0.0, lr=1e-3)
    engine = small_engine(tmp_path, max_epochs=2)
    engine.fit(model, datamodule=MVTec(root=data_root, category="dots", num_workers=0))
    model = UninformedStudents.load_from_checkpoint(engine.best_model_path).eval()
    datamodule = MVTec(root=data_root, category="dots", num_workers=0)
    datamodule.setup()
    images = [model.pre_processor.transform(item.image.unsqueeze(0)) for item in datamodule.train_data]
    training, held_out = split_indices(len(images), 0.1)
    assert (len(training), len(held_out)) == (5, 1)

    ensemble = model.model.ensembles["p83"].double()
    with torch.no_grad():
        descriptors = torch.cat(
            [dense_descriptors(ensemble.teacher, images[i].double(), 8)[0].flatten(1) for i in training], dim=1
        )
        students, seen, _ = ensemble.describe(pad_border(images[held_out[0]].double(), 83), 8)
    error, uncertainty = regression_error(students, seen), predictive_uncertainty(students)
    expected = {
        "descriptor_mean": descriptors.mean(dim=1).view(-1, 1, 1),
        "descriptor_std": descriptors.std(dim=1, correction=0).view(-1, 1, 1),
        "error_mean": error.double().mean(),
        "error_std": error.double().std(correction=0),
        "uncertainty_mean": uncertainty.double().mean(),
        "uncertainty_std": uncertainty.double().std(correction=0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(ensemble, name), value, rtol=1e-4, atol=1e-5, msg=name)


def test_held_out_images_are_not_trained_on_and_come_back(datamodule: MVTec, tmp_path: Path) -> None:
    seen: set[str] = set()

    class Watching(UninformedStudents):
        def training_step(self, batch: Any) -> Any:
            seen.update(batch.image_path)
            return super().training_step(batch)

    model = Watching(
        pre_processor=UninformedStudents.configure_pre_processor((64, 64)), normalization_split=0.3, **SMALL
    )
    small_engine(tmp_path, max_epochs=2).fit(model, datamodule=datamodule)
    assert len(seen) == 4
    assert len(datamodule.train_data) == 6


def test_training_images_come_back_after_a_failure(datamodule: MVTec, tmp_path: Path) -> None:
    model = small_model()
    model.training_step = lambda *_: (_ for _ in ()).throw(RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        small_engine(tmp_path).fit(model, datamodule=datamodule)
    assert len(datamodule.train_data) == 6


def test_resumes_where_it_stopped(trained: Path, datamodule: MVTec, tmp_path: Path) -> None:
    model, engine = small_model(), small_engine(tmp_path, max_epochs=3)
    before = torch.load(trained, weights_only=False)
    engine.fit(model, datamodule=datamodule, ckpt_path=trained)
    assert engine.trainer.current_epoch == 3
    assert engine.trainer.global_step > before["global_step"]
    name = "model.ensembles.p83.descriptor_mean"
    torch.testing.assert_close(model.state_dict()[name], before["state_dict"][name])


@pytest.mark.parametrize(
    ("native", "precision", "expected"), [(True, None, True), (False, None, False), (True, 32, False)]
)
def test_trains_in_bfloat16_where_that_is_native_and_nothing_else_is_said(
    native: bool,
    precision: int | None,
    expected: bool,
    datamodule: MVTec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anomalib_students.model.training.has_bfloat16", lambda device: native)
    model = small_model()
    in_bfloat16: set[tuple[bool, bool]] = set()
    # Training steps have gradients, statistics and predictions do not.
    model.model.scales[0].students[0].register_forward_hook(
        lambda network, images, descriptors: in_bfloat16.add(
            (torch.is_grad_enabled(), descriptors.dtype == torch.bfloat16)
        )
    )
    small_engine(tmp_path, precision=precision).fit(model, datamodule=datamodule)
    assert in_bfloat16 == {(True, expected), (False, False)}


def test_dense_training_of_a_batch(datamodule: MVTec, tmp_path: Path) -> None:
    engine = small_engine(tmp_path, max_epochs=None, max_steps=1)
    engine.fit(small_model(side=40, training_mode="dense"), datamodule=datamodule)
    assert engine.trainer.global_step == 1


def test_diverged_training_is_one_clear_error(datamodule: MVTec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"):
        small_engine(tmp_path, max_epochs=2).fit(small_model(lr=1e18), datamodule=datamodule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalization_split": 1.0}, "normalization_split"),
        ({"lr": -1.0}, "lr"),
        ({"preset": "best"}, "preset"),
        ({"descriptor_dim": 100}, "descriptor_dim 100"),
    ],
)
def test_argument_out_of_range_is_one_clear_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UninformedStudents(**{**SMALL, **arguments})


def test_cuda_trains_where_there_is_one(datamodule: MVTec, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    engine = Engine(default_root_dir=tmp_path, accelerator="gpu", devices=1, max_epochs=1)
    assert engine.train(small_model(), datamodule=datamodule)[0]["pixel_AUROC"] >= 0
