"""What the user leaves open, the model chooses; tests/integration/test_engine_defaults.py has what ours choose."""

import pytest
from anomalib.engine import Engine
from anomalib.models import UninformedStudents

from anomalib_students.mends import trainer_settings

from ..reliability.small import small_data, small_engine, small_model


def test_a_model_completes_the_settings(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(UninformedStudents, "complete_trainer_settings", lambda _, settings: seen.append({**settings}))
    small_engine(tmp_path, max_epochs=7).test(small_model(), datamodule=small_data(tmp_path / "data"))
    assert [settings["max_epochs"] for settings in seen] == [7]


def test_an_engine_that_has_changed_is_warned_of():
    called = []
    engine = Engine()
    del engine._cache
    with pytest.warns(
        RuntimeWarning, match=r"anomalib \S+ has changed .*Engine\._cache, .*: what the user leaves open"
    ):
        trainer_settings._complete(called.append, engine, (small_model(),), {})
    assert len(called) == 1
