"""Errors that users can mend are one line; all others keep their traceback."""

import pytest
from anomalib.models import UninformedStudents

from anomalib_students import user_errors


def test_the_traceback_is_there_if_it_is_wanted(monkeypatch, capsys):
    monkeypatch.setenv(user_errors.DEBUG, "1")
    error = raised_by(lambda: UninformedStudents(lr=-1))
    assert user_errors.one_line("anomalib", error).startswith("anomalib: lr must be positive")
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "lightning_model.py" in printed


def raised_by(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value


def test_errors_of_others_keep_their_traceback():
    assert user_errors.is_for_users(raised_by(lambda: UninformedStudents(n_students=0)))
    # The same kinds of errors: of this file, and of torch, called by ours.
    assert not user_errors.is_for_users(raised_by(lambda: int("one")))
    model = UninformedStudents(n_students=1, patch_sizes=(33,), teacher=None, descriptor_dim=4)
    assert not user_errors.is_for_users(raised_by(lambda: model.model.eval()(None)))
    assert not user_errors.is_for_users(raised_by(lambda: model.model.load_state_dict({})))
