"""What anomalib's engine does with our model if the user leaves it open."""

import math
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Folder
from anomalib.pipelines.tiled_ensemble.components.utils.helper_functions import (
    get_ensemble_datamodule,
    get_ensemble_engine,
    get_ensemble_tiler,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image

from anomalib_students.model import callbacks, training
from anomalib_students.model.lightning_model import UninformedStudents

from ..reliability.small import small_data, small_engine, small_model
from .conftest import write_category


class Counter(Callback):
    """Count the epochs, their steps, the validations and the checkpoints of a training."""

    def __init__(self) -> None:
        self.steps = self.validations = self.saved = 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.steps += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations += 1

    def on_save_checkpoint(self, *_: Any) -> None:
        self.saved += 1


def run(tmp_path: Path, **arguments: Any) -> tuple[Counter, Any]:
    """Train the small model on six images in batches of two: of the five that are left, five steps an epoch."""
    counter = Counter()
    added = [counter, *arguments.pop("callbacks", [])]
    engine = small_engine(tmp_path, callbacks=added, **{"max_epochs": None, **arguments})
    engine.fit(small_model(), datamodule=small_data(tmp_path / "data"))
    return counter, engine


@pytest.fixture(autouse=True)
def _sixteen_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAINING_IMAGES", 16)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_trains_on_the_default_number_of_images_and_validates_once(schedule: str, tmp_path: Path) -> None:
    counter = Counter()
    engine = small_engine(tmp_path, callbacks=[counter], max_epochs=None)
    engine.fit(small_model(lr_schedule=schedule), datamodule=small_data(tmp_path / "data"))
    assert (engine.trainer.current_epoch, counter.steps, counter.validations) == (4, 16, 1)
    # The learning rate has decayed over just these steps: the last one is half a cosine's fifteenth of sixteen.
    rate = engine.trainer.optimizers[0].param_groups[0]["lr"]
    assert rate == pytest.approx((1 + math.cos(math.pi * 15 / 16)) / 2e3 if schedule == "cosine" else 1e-3)


@pytest.mark.parametrize(
    ("arguments", "epochs", "validations"),
    [
        ({"max_epochs": 3}, 3, 1),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 3, 1),
        ({"max_epochs": 3, "val_check_interval": 1.0}, 3, 3),
        # The first epoch has five steps: the training ends within the second.
        ({"max_steps": 7}, 2, 1),
        ({"max_epochs": 3, "max_steps": 7}, 2, 1),
        ({"max_steps": 0}, 0, 0),
        ({"max_time": timedelta(milliseconds=1)}, 1, 1),
    ],
)
def test_what_the_user_names_is_kept(arguments: dict[str, Any], epochs: int, validations: int, tmp_path: Path) -> None:
    counter, engine = run(tmp_path, **arguments)
    assert (engine.trainer.current_epoch, counter.validations) == (epochs, validations)


def test_a_user_who_stops_or_saves_by_a_validation_has_one_after_every_epoch(tmp_path: Path) -> None:
    counter, _ = run(tmp_path, max_epochs=3, callbacks=[ModelCheckpoint(dirpath=tmp_path / "own")])
    assert counter.validations == 3
    assert list((tmp_path / "own").glob("*.ckpt"))
    assert not list(tmp_path.rglob("weights"))
    patient = EarlyStopping("train_loss", patience=10)
    assert run(tmp_path / "stopping", max_epochs=2, callbacks=[patient])[0].validations == 2


def test_checkpoints_are_saved_at_the_end_of_epochs_a_while_apart_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, engine = run(tmp_path / "short")
    # The first of four epochs, and the last.
    assert counter.saved == 2
    assert engine.best_model_path.endswith("weights/lightning/model.ckpt")
    checkpoint = torch.load(engine.best_model_path, weights_only=False)
    assert checkpoint["global_step"] == 16
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", 0)
    # A checkpoint takes longer than the other two epochs, but not a million times as long.
    monkeypatch.setattr(callbacks, "SHARE_OF_SAVES", 1e-6)
    assert run(tmp_path / "slow")[0].saved == 2
    monkeypatch.setattr(callbacks, "SHARE_OF_SAVES", math.inf)
    assert run(tmp_path / "long")[0].saved == 4


@pytest.mark.parametrize("decision", [True, False])
def test_the_first_process_decides_for_all_when_to_save(decision: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[bool] = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", lambda *_: saved.append(True))
    trainer = Mock(current_epoch=0, max_epochs=4, should_stop=False, max_steps=-1, global_step=3, is_last_batch=True)
    trainer.strategy.broadcast = lambda own: decision
    checkpoint = callbacks.RegularCheckpoint()
    for _ in range(2):
        # By this process's own clock, the first of two is saved.
        checkpoint.on_train_epoch_end(trainer, Mock())
    assert len(saved) == (2 if decision else 0)


def losses_of(folder: Path, **arguments: Any) -> list[float]:
    """Losses of the steps of a training from seed 0, and a sum of the final weights."""
    losses: list[float] = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, model: LightningModule, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    batch_size = arguments["data"]["train_batch_size"]
    data = small_data(folder / "data", **arguments.pop("data"))
    torch.manual_seed(0)
    model = small_model()
    engine = small_engine(folder, callbacks=[Losses()], **{"max_epochs": 2, **arguments})
    engine.fit(model, datamodule=data)
    assert (data.train_batch_size, len(data.train_data)) == (batch_size, 6)
    return [*losses, float(sum(weight.double().sum() for weight in model.parameters()))]


def test_batches_of_any_size_and_accumulated_ones_train_as_single_images(tmp_path: Path) -> None:
    expected = losses_of(tmp_path, data={"train_batch_size": 1})
    assert len(expected) == 11
    for data, trainer in (
        ({"train_batch_size": 32}, {}),
        ({"train_batch_size": 3}, {"accumulate_grad_batches": 4}),
        ({"train_batch_size": 2}, {"gradient_clip_val": 1e9}),
    ):
        assert losses_of(tmp_path, data=data, **trainer) == expected


def test_a_data_loader_is_one_clear_error(tmp_path: Path) -> None:
    data, other = small_data(tmp_path / "data"), small_data(tmp_path / "data")
    other.setup()
    engine = small_engine(tmp_path)
    with pytest.raises(ValueError, match="give the fit a datamodule"):
        engine.fit(small_model(), train_dataloaders=other.train_dataloader())
    engine.fit(small_model(), datamodule=data)
    # The trainer still has the data module.
    engine.trainer.fit_loop.max_epochs = 2
    with pytest.raises(ValueError, match="give the fit a datamodule"):
        engine.fit(small_model(), train_dataloaders=other.train_dataloader())


def test_a_resumed_training_ends_after_the_same_steps(tmp_path: Path) -> None:
    _, first = run(tmp_path / "first", max_epochs=2)
    engine = small_engine(tmp_path / "second", max_epochs=None)
    engine.fit(small_model(), datamodule=small_data(tmp_path / "data"), ckpt_path=first.best_model_path)
    assert (engine.trainer.current_epoch, engine.trainer.global_step) == (4, 16)


def test_the_default_is_a_model_of_one_student_and_two_scales_that_inspects_parts_of_320_pixels() -> None:
    model = UninformedStudents()
    assert [(scale.patch_size, len(scale.students)) for scale in model.model.scales] == [(83, 1), (167, 1)]
    assert model.input_size == UninformedStudents(pre_processor=UninformedStudents.configure_pre_processor()).input_size
    assert model.input_size == (320, 320)


def test_images_have_the_size_that_is_named() -> None:
    assert UninformedStudents(image_size=200, teacher=None).input_size == (200, 200)
    assert UninformedStudents("paper", teacher=None).input_size == (256, 256)
    with pytest.raises(ValueError, match="image_size must be positive, got 0"):
        UninformedStudents(image_size=0, teacher=None)


@pytest.mark.filterwarnings("error:Found .* in eval mode")
def test_every_default_trains_tests_and_exports(tmp_path: Path) -> None:
    model = UninformedStudents(pre_processor=UninformedStudents.configure_pre_processor((96, 96)))
    engine = small_engine(tmp_path, max_epochs=None)
    (results,) = engine.train(model, datamodule=small_data(tmp_path / "data"))
    assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"} == results.keys()
    assert engine.export(model, "openvino", export_root=tmp_path / "exported").is_file()


def test_a_tiled_ensemble_of_anomalib_sees_tiles_everywhere(tmp_path: Path) -> None:
    """In training, statistics and threshold: with the same tile cut out beforehand, the model is the same."""
    category = tmp_path / "data" / "dots"
    whole = small_data(tmp_path / "data")
    tiler = get_ensemble_tiler({"tile_size": (24, 32), "stride": (24, 32), "image_size": (48, 64)})
    source = {"class_path": "MVTec", "init_args": {"root": str(whole.root), "category": "dots", "num_workers": 0}}
    tiles = get_ensemble_datamodule({"data": source}, (48, 64), tiler, (1, 0))
    engine = get_ensemble_engine((1, 0), "cpu", 1, tmp_path / "tiles", {"max_epochs": 1, "logger": False})
    torch.manual_seed(0)
    model = small_model(pre_processor=False)
    engine.fit(model, datamodule=tiles)
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["model1_0.ckpt"]
    for path in category.rglob("*.png"):
        Image.open(path).resize((64, 48), Image.Resampling.BILINEAR).crop((0, 24, 32, 48)).save(path)
    torch.manual_seed(0)
    expected = small_model(pre_processor=False)
    small_engine(tmp_path / "cut").fit(expected, datamodule=small_data(tmp_path / "data"))
    buffers = dict(model.named_buffers())
    for name, value in expected.named_buffers():
        if name.startswith(("model", "post_processor")):
            torch.testing.assert_close(buffers[name], value, rtol=0.05, atol=0.05, equal_nan=True)


@pytest.mark.parametrize("n_train", [1, 2, 3, 4])
def test_a_few_good_images_train_without_a_validation(
    n_train: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_category(tmp_path / "dots", n_train=n_train)
    data = Folder(
        "dots", root=tmp_path / "dots", normal_dir="train/good", test_split_mode="none", val_split_mode="none"
    )
    counter = Counter()
    engine = small_engine(tmp_path, callbacks=[counter])
    engine.fit(small_model(), datamodule=data)
    assert (counter.steps, counter.validations) == (max(1, n_train - 1), 0)
    assert ("single training image" in caplog.text) == (n_train == 1)
    assert UninformedStudents.load_from_checkpoint(engine.best_model_path).post_processor.decision.n_images == 1
