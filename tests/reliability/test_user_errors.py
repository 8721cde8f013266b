"""What users can mend ends anomalib's commands in one line; what they can't keeps its traceback."""

import sys

import anomalib.cli.cli
import pytest
from anomalib.models import UninformedStudents

from anomalib_students import user_errors

from ..integration.conftest import write_category
from .pictures import DAMAGED, write_picture

MODEL = ("--model", "UninformedStudents", "--trainer.accelerator", "cpu", "--trainer.logger", "false")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run anomalib's command, as its console script does, and return what it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anomalib.cli.cli, "configure_logger", lambda: None)
    monkeypatch.delenv(user_errors.DEBUG, raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["anomalib", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            anomalib.cli.cli.main()
        assert "Traceback" not in capsys.readouterr().err
        # Python prints a text and exits with 1.
        assert isinstance(ended.value.code, str)
        assert ended.value.code.startswith("anomalib: ")
        assert "\n" not in ended.value.code
        return ended.value.code

    return run


def test_missing_data(run, tmp_path):
    mvtec = ("--data", "MVTec", "--data.root", tmp_path / "gone", "--data.category", "pill")
    assert str(tmp_path / "gone") in run("train", *MODEL, *mvtec)
    folder = ("--data", "Folder", "--data.name", "part", "--data.root", tmp_path / "gone", "--data.normal_dir", "good")
    assert str(tmp_path / "gone") in run("train", *MODEL, *folder)


def test_a_damaged_image(run, tmp_path):
    write_category(tmp_path / "data" / "dots")
    path = write_picture(DAMAGED[0], tmp_path / "data" / "dots" / "test" / "good" / "009")
    error = run("test", *MODEL, "--data", "MVTec", "--data.root", tmp_path / "data", "--data.category", "dots")
    assert error.startswith(f"anomalib: Cannot read {path} as an image")


def test_a_bad_value_and_a_missing_checkpoint(run, tmp_path):
    assert "lr must be positive" in run("export", *MODEL, "--model.lr=-1", "--export_type", "onnx")
    assert "gone.ckpt" in run("export", *MODEL, "--export_type", "onnx", "--ckpt_path", tmp_path / "gone.ckpt")


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
