"""Tests of ``anomalib-students check``: differences, flips, costs and the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_students.line.command import main

from .conftest import save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for level in (50, 100, 120, 200):
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(folder / f"{level}.png")
    return folder


def test_differences_and_flips_are_those_of_the_models(model: Path, folder: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other.xml", (20, 30), add=0.05)
    output = tmp_path / "check.json"
    command = ["check", str(model), str(other), "--no-checkpoint", "--data", str(folder), "--output", str(output)]
    # A brightness of 120 / 255 lies 0.029 below the threshold.
    assert main(command) == 1
    assert main([*command, "--flips", "1"]) == 0
    rows = {(row["model"], row["precision"]): row for row in json.loads(output.read_text())}
    same, moved = rows["model.xml", "f32"], rows["other.xml", "f32"]
    assert same["difference of scores, largest"] == same["difference of maps, largest"] == same["flipped labels"] == 0
    assert (same["images"], same["input"], moved["input"]) == (4, "any size", "20 x 30")
    for kind in ("scores, largest", "scores, mean", "maps, largest", "maps, mean"):
        assert moved[f"difference of {kind}"] == pytest.approx(0.05, abs=1e-6)
    assert moved["flipped labels"] == 1
    assert moved["nearest flip to 0.5"] == pytest.approx(0.5 - 120 / 255, abs=1e-6)
    assert moved["latency in ms, p95"] >= moved["latency in ms, median"] > 0
    assert moved["images a second"] > 0
    # Tensors of a small model, which may fit into what is allocated already; not the interpreter's memory.
    assert abs(moved["memory in MB"]) < 100


def test_without_a_checkpoint_nothing_imports_torch(model: Path, folder: Path) -> None:
    code = (
        "import sys\nfrom anomalib_students.cli import main\n"
        f"try: main(['check', {str(model)!r}, '--no-checkpoint', '--data', {str(folder)!r}])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "flipped labels" in done.stdout


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [("none.ckpt", "There is no checkpoint at"), ("text.ckpt", "is no checkpoint of|damaged")],
)
def test_what_is_no_checkpoint_is_said_in_one_line(
    checkpoint: str, message: str, model: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.ckpt").write_text("text")
    command = ["check", str(model), "--checkpoint", str(tmp_path / checkpoint), "--data", str(folder)]
    with pytest.raises(SystemExit, match=message) as caught:
        main(command)
    assert "\n" not in str(caught.value)
