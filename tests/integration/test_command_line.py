"""The commands of README, run in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from anomalib.cli import AnomalibCLI
from anomalib.data import MVTec
from PIL import Image

from anomalib_students.lightning_model import PAPER

from .conftest import write_category

BIN = Path(sys.executable).parent
CONFIGS = Path(__file__).parents[2] / "configs"


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


@pytest.fixture(scope="module")
def small_config(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration file of a small model on the tiny task."""
    transform = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [64, 64]}}
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "UninformedStudents",
            "init_args": {
                **PAPER,
                "patch_sizes": [33],
                "n_students": 2,
                "output_stride": 8,
                "lr": 1e-3,
                "pre_processor": {
                    "class_path": "anomalib.pre_processing.PreProcessor",
                    "init_args": {"transform": transform},
                },
            },
        },
        "data": {
            "class_path": "MVTec",
            "init_args": {"root": str(data_root), "category": "dots", "num_workers": 0, "train_batch_size": 2},
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "logger": False},
    }
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    # Every JSON document is a YAML document.
    path.write_text(json.dumps(config))
    return path


@pytest.mark.slow
def test_train_then_test_predict_and_export(small_config: Path, data_root: Path, tmp_path: Path) -> None:
    output = run(BIN / "anomalib", "train", "-c", small_config, cwd=tmp_path)
    assert "pixel_AUPRO" in output
    results = tmp_path / "results" / "UninformedStudents" / "MVTec" / "dots" / "latest"
    checkpoint = results / "weights" / "lightning" / "model.ckpt"
    assert checkpoint.is_file()
    assert list((results / "images").rglob("*.png"))

    model = ("--model", "UninformedStudents", "--model.patch_sizes", "[33]", "--model.n_students", "2")
    model += ("--model.architecture", "paper", "--model.output_stride", "8", "--ckpt_path", checkpoint)
    image = data_root / "dots" / "test" / "square" / "000.png"
    tiler = "anomalib.callbacks.TilerConfigurationCallback"
    tiling = {"none": (), "ours": ("--model.max_tile", "24")}
    tiling["anomalib's"] = (
        "--trainer.callbacks",
        json.dumps({"class_path": tiler, "init_args": {"enable": True, "tile_size": 24, "stride": 24}}),
    )
    pictures = {}
    for whose, arguments in tiling.items():
        folder = tmp_path / whose
        folder.mkdir()
        run(
            BIN / "anomalib", "predict", *model, *arguments, "--data", image, "--trainer.accelerator", "cpu", cwd=folder
        )
        (picture,) = folder.rglob("000.png")
        pictures[whose] = np.asarray(Image.open(picture), dtype=int)
    for picture in pictures.values():
        # Rounding may move a pixel to the next colour.
        assert abs(picture - pictures["none"]).max() <= 2
    run(BIN / "anomalib", "export", *model, "--export_type", "openvino", "--export_root", tmp_path, cwd=tmp_path)
    exported = tmp_path / "weights" / "openvino" / "model.bin"
    size = exported.stat().st_size
    run(
        *(BIN / "anomalib", "export", *model, "--export_type", "openvino", "--export_root", tmp_path),
        *("--compression_type", "int8_ptq", "--data", "MVTec", "--data.root", data_root, "--data.category", "dots"),
        cwd=tmp_path,
    )
    assert exported.stat().st_size < size / 2


# Those of the Ray jobs have the test of tests/ray_jobs.
@pytest.mark.parametrize("config", sorted(CONFIGS.glob("[!r]*.yaml")), ids=lambda path: path.stem)
def test_our_configurations_are_valid(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has imported what takes a new one seconds."""
    with pytest.raises(SystemExit) as ended:
        AnomalibCLI(["train", "-c", str(config), "--print_config"])
    assert ended.value.code == 0
    assert "UninformedStudents" in capsys.readouterr().out


def test_help_explains_our_arguments(tmp_path: Path) -> None:
    output = run(BIN / "anomalib", "train", "--model.help", "UninformedStudents", cwd=tmp_path)
    assert "--model.init_args.patch_sizes" in output or "--model.patch_sizes" in output
    assert "receptive fields" in output


def test_folder_without_good_images_is_one_clear_error(tmp_path: Path) -> None:
    write_category(tmp_path / "data" / "dots", n_train=1)
    (tmp_path / "data" / "dots" / "train" / "good" / "000.png").unlink()
    arguments = ("--data", "MVTec", "--data.root", tmp_path / "data", "--data.category", "dots")
    output = run(BIN / "anomalib", "train", "--model", "UninformedStudents", *arguments, cwd=tmp_path, fails=True)
    assert "train/good" in output.splitlines()[-1] or "train/good" in output[-600:]


def test_teachers_lists_what_is_bundled(tmp_path: Path) -> None:
    output = run(BIN / "anomalib-students", "teachers", cwd=tmp_path)
    for text in ("p17", "p33", "p65", "light_p33", "iterations", "licences"):
        assert text in output


def test_command_fails_in_one_line(tmp_path: Path) -> None:
    output = run(BIN / "anomalib-students", "teachers", "--file", "gone.safetensors", cwd=tmp_path, fails=True)
    assert "Traceback" not in output
    assert "gone.safetensors" in output


def test_real_category_loads(real_data: Path) -> None:
    datamodule = MVTec(root=real_data / "MVTecAD", category="pill")
    datamodule.setup()
    assert len(datamodule.train_data) == 267
