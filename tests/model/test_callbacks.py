"""The estimate of a training's time, with a clock that the test moves."""

import logging
from types import SimpleNamespace

import pytest

from anomalib_students.model import callbacks
from anomalib_students.model.callbacks import TrainingTime

from ..reliability.small import small_data, small_engine, small_model


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock.seconds)
    return clock


def train(clock, seconds, n_batches, n_steps, **trainer):
    """Train for a part of the steps, whose first two take a minute each."""
    trainer = {"callbacks": [], "is_global_zero": True, **trainer}
    trainer = SimpleNamespace(estimated_stepping_batches=n_steps, global_step=0, progress_bar_metrics={}, **trainer)
    callback = TrainingTime()
    callback.on_train_start(trainer, None)
    for number in range(1, n_batches + 1):
        clock.seconds += 60 if number <= 2 else seconds
        trainer.global_step = number
        callback.on_train_batch_end(trainer, None, None, None, 0)
    return trainer.progress_bar_metrics


def test_a_long_training_is_warned_of_once_and_a_short_one_not(clock, caplog):
    assert train(clock, 1.0, n_batches=100, n_steps=3400) == {"remaining": "0:55:00"}
    assert caplog.records == []
    train(clock, 2.0, n_batches=100, n_steps=5000)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "about 2.8 hours, at 2 seconds a step" in record.message


@pytest.mark.parametrize(
    ("steps", "reported"),
    [
        ({"seconds": 1.0, "n_batches": 11}, {}),
        ({"seconds": 1.0, "n_batches": 12}, {"remaining": "1:23:08"}),
        # After half a minute there is an estimate, however few steps there were.
        ({"seconds": 60.0, "n_batches": 3}, {"remaining": "3 days, 11:17:00"}),
        ({"seconds": 1.0, "n_batches": 12, "n_steps": float("inf")}, {}),
        ({"seconds": 1.0, "n_batches": 12, "is_global_zero": False}, {}),
    ],
)
def test_remaining_time(clock, steps, reported):
    assert train(clock, **{"n_steps": 5000, **steps}) == reported


def test_a_limit_of_time_counts(clock, caplog, monkeypatch):
    timer = callbacks.Timer(duration={"minutes": 10})
    monkeypatch.setattr(timer, "time_remaining", lambda: 400.0)
    assert train(clock, 1.0, n_batches=12, n_steps=10**6, callbacks=[timer]) == {"remaining": "0:06:40"}
    assert caplog.records == []


def test_models_have_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(callbacks, "LONG", 0.0)
    monkeypatch.setattr(callbacks, "LEAST_STEPS", 1)
    engine = small_engine(tmp_path, max_epochs=2)
    engine.fit(small_model(), datamodule=small_data(tmp_path / "data"))
    assert engine.trainer.progress_bar_metrics["remaining"] == "0:00:00"
    warnings = [record.message for record in caplog.records if record.name == callbacks.__name__]
    assert len(warnings) == 1
