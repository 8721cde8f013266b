"""The commands of README: in a process of their own once, and then in this one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anomalib.cli import AnomalibCLI
from PIL import Image

from anomalib_students import cli

from ..reliability.small import small_config
from .conftest import SMALL, write_category

BIN = Path(sys.executable).parent
CONFIGS = Path(__file__).parents[2] / "configs"
PRE_PROCESSOR = {
    "class_path": "anomalib.pre_processing.PreProcessor",
    "init_args": {
        "transform": {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [64, 64]}},
    },
}


def run(*arguments: str | Path, cwd: Path, fails: bool = False) -> str:
    """Run a command and return what it printed."""
    result = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = result.stdout + result.stderr
    assert (result.returncode != 0) == fails, output[-5000:]
    return output


@pytest.fixture
def model(trained: Path) -> tuple[str | Path, ...]:
    """Arguments of the small model that was trained."""
    settings = {**SMALL, "pre_processor": PRE_PROCESSOR}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    arguments = (f"--model.{name}={text}" for name, text in texts.items())
    return ("--model", "UninformedStudents", *arguments, "--ckpt_path", trained)


@pytest.mark.slow
def test_train_leaves_a_checkpoint(tmp_path: Path) -> None:
    """As a user calls it, in a process of its own."""
    config = small_config(tmp_path / "data", tmp_path / "small.yaml")
    assert "pixel_AUPRO" in run(BIN / "anomalib", "train", "-c", config, cwd=tmp_path)
    results = tmp_path / "results" / "UninformedStudents" / "MVTec" / "dots" / "latest"
    assert (results / "weights" / "lightning" / "model.ckpt").is_file()


def test_predict_gives_the_same_picture_whoever_cuts_the_image_into_tiles(
    anomalib: Callable[..., None], model: tuple[str | Path, ...], data_root: Path, tmp_path: Path
) -> None:
    image = data_root / "dots" / "test" / "square" / "000.png"
    tiler = "anomalib.callbacks.TilerConfigurationCallback"
    tiling = {"none": (), "ours": ("--model.max_tile", "24")}
    tiling["anomalib's"] = (
        "--trainer.callbacks",
        json.dumps({"class_path": tiler, "init_args": {"enable": True, "tile_size": 24, "stride": 24}}),
    )
    pictures = {}
    for whose, arguments in tiling.items():
        folder = ("--default_root_dir", tmp_path / whose)
        anomalib("predict", *model, *arguments, "--data", image, "--trainer.accelerator", "cpu", *folder)
        (picture,) = (tmp_path / whose).rglob("000.png")
        pictures[whose] = np.asarray(Image.open(picture), dtype=int)
    for picture in pictures.values():
        # Rounding may move a pixel to the next colour.
        assert abs(picture - pictures["none"]).max() <= 2


@pytest.mark.slow
def test_export_in_8_bits_is_smaller(
    anomalib: Callable[..., None], model: tuple[str | Path, ...], data_root: Path, tmp_path: Path
) -> None:
    anomalib("export", *model, "--export_type", "openvino", "--export_root", tmp_path)
    exported = tmp_path / "weights" / "openvino" / "model.bin"
    size = exported.stat().st_size
    data = ("--data", "MVTec", "--data.root", data_root, "--data.category", "dots")
    compressed = ("--export_type", "openvino", "--export_root", tmp_path, "--compression_type", "INT8_PTQ")
    anomalib("export", *model, *compressed, *data)
    assert exported.stat().st_size < size / 2


# Those of the Ray jobs have the test of tests/ray_jobs.
@pytest.mark.parametrize("config", sorted(CONFIGS.glob("[!r]*.yaml")), ids=lambda path: path.stem)
def test_our_configurations_are_valid(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has imported what takes a new one seconds."""
    with pytest.raises(SystemExit) as ended:
        AnomalibCLI(["train", "-c", str(config), "--print_config"])
    assert ended.value.code == 0
    assert "UninformedStudents" in capsys.readouterr().out


def test_help_explains_our_arguments(anomalib: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        anomalib("train", "--model.help", "UninformedStudents")
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "--model.init_args.patch_sizes" in output or "--model.patch_sizes" in output
    assert "receptive fields" in output


def test_folder_without_good_images_is_one_clear_error(anomalib: Callable[..., None], tmp_path: Path) -> None:
    write_category(tmp_path / "data" / "dots", n_train=1)
    (tmp_path / "data" / "dots" / "train" / "good" / "000.png").unlink()
    arguments = ("--data", "MVTec", "--data.root", tmp_path / "data", "--data.category", "dots")
    with pytest.raises((ValueError, OSError), match="train/good"):
        anomalib("train", "--model", "UninformedStudents", *arguments)


def test_teachers_lists_what_is_bundled(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["teachers"])
    output = capsys.readouterr().out
    for text in ("p17", "p33", "p65", "lean_p83", "iterations", "licences"):
        assert text in output


@pytest.mark.slow
def test_command_fails_in_one_line(tmp_path: Path) -> None:
    output = run(BIN / "anomalib-students", "teachers", "--file", "gone.safetensors", cwd=tmp_path, fails=True)
    assert "Traceback" not in output
    assert "gone.safetensors" in output
