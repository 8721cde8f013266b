"""What users can mend ends anomalib's commands in one line."""

import sys

import anomalib.cli.cli
import pytest

from anomalib_students import user_errors

from ..integration.conftest import write_category
from ..reliability.pictures import DAMAGED, write_picture

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
