"""A training that a scheduler ends with SIGTERM says so in its exit status, and how to resume it.

Processes that load images send signals too, when they end. :mod:`test_signals` runs all this in a new process.
"""

import os
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from anomalib_students.model import calibration
from anomalib_students.teacher.pretrain import TeacherPretraining, pretrain

from .small import small_data, small_engine, small_model
from .test_seed import test_kill_and_resume_equals_the_uninterrupted_training as kill_and_resume


class TerminateIn(Callback):
    """Send SIGTERM to this process in the first step of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("epoch", [0, 1])
def test_training_ends_with_status_143(epoch: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = small_engine(tmp_path, max_epochs=3, callbacks=[TerminateIn(epoch)])
    with pytest.raises(SystemExit) as ended:
        engine.fit(small_model(), datamodule=small_data(tmp_path / "data"))
    assert ended.value.code == 143
    advice = f"--ckpt_path {engine.best_model_path}" if epoch else "There is no checkpoint yet."
    assert [advice in message for message in caplog.messages if "SIGTERM after" in message] == [True]


def test_statistics_end_within_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a validation: the training has handlers for signals then."""
    seen: list[int] = []

    def terminate(module, held_out) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        seen.extend(index for index, _ in calibration._sampled(module, held_out, ""))

    monkeypatch.setattr("anomalib_students.model.training.normalise_scores", terminate)
    with pytest.raises(SystemExit) as ended:
        small_engine(tmp_path).fit(small_model(), datamodule=small_data(tmp_path / "data"))
    assert ended.value.code == 143
    assert not seen
    assert not list(tmp_path.rglob("*.ckpt*"))


@pytest.mark.usefixtures("narrow_networks")
def test_pretraining_ends_with_status_143(
    photographs: Path,
    resnet18_checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def terminate(*_) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TeacherPretraining, "on_train_batch_start", terminate)
    with pytest.raises(SystemExit) as ended:
        pretrain(
            images=photographs,
            output=tmp_path / "p17.safetensors",
            results=tmp_path / "results",
            patch_size=17,
            descriptor_dim=8,
            source_checkpoint=resnet18_checkpoint,
            source_layer="layer1",
            source_size=32,
            max_steps=3,
            batch_size=2,
            accelerator="cpu",
            trainer_arguments={"enable_progress_bar": False},
        )
    assert ended.value.code == 143
    assert any("--resume true" in message for message in caplog.messages)


def test_kill_and_resume_with_a_process_that_loads_images(tmp_path: Path) -> None:
    kill_and_resume({"num_workers": 1}, {}, {"lr_schedule": "cosine"}, tmp_path)
