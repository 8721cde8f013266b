"""Errors that users can mend are one line."""

import pytest
from anomalib.models import UninformedStudents

from anomalib_students import user_errors


def test_the_traceback_is_there_if_it_is_wanted(monkeypatch, capsys):
    monkeypatch.setenv("ANOMALIB_STUDENTS_DEBUG", "1")
    with pytest.raises(ValueError, match="lr must be positive") as error:
        UninformedStudents(lr=-1)
    assert user_errors.one_line("program", error.value).startswith("program: lr must be positive")
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "lightning_model.py" in printed
