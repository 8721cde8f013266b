"""Tests of the container and the service: their commands are ours, and what they install is enough to inspect."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_students.line.command import create_parser

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "line"
MODULES = {"pillow": "PIL", "opencv-python-headless": "cv2"}
REQUIRED = {"anyio", "idna", "openvino_telemetry", "packaging", "sniffio", "typing_extensions"}
"""What the installed packages require themselves."""
PREFIX = ["-m", "anomalib_students.line.command"]


def instructions(kind: str) -> list[str]:
    return re.findall(rf"^{kind} (.*)$", (EXAMPLES / "Dockerfile").read_text(), re.MULTILINE)


def test_the_container_runs_a_command_of_ours_and_copies_what_is_there() -> None:
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["python", *PREFIX]
    options = create_parser().parse_args(json.loads(command))
    assert options.output == Path("/results/results.csv")
    for line in instructions("COPY"):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources)


def test_the_service_runs_a_command_of_ours_and_ends_well_after_sigterm(tmp_path: Path) -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(EXAMPLES / "inspection.service")
    python, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(python).is_absolute()
    assert arguments[:2] == PREFIX
    options = create_parser().parse_args(arguments[2:])
    assert options.watch
    assert options.resume
    assert unit["Service"]["SuccessExitStatus"] == "143"
    assert str(options.output).startswith(f"/var/lib/{unit['Service']['StateDirectory']}/")
    if systemd := shutil.which("systemd-analyze"):
        here = tmp_path / "inspection.service"
        here.write_text((EXAMPLES / "inspection.service").read_text().replace(f"={python} ", f"={sys.executable} "))
        subprocess.run([systemd, "verify", here], check=True)


@pytest.mark.parametrize("is_watched", [False, True])
def test_the_installed_packages_are_enough(is_watched: bool, model: Path, tmp_path: Path) -> None:
    installed = re.findall(
        r"pip install --no-cache-dir ([a-z -]+)$", (EXAMPLES / "Dockerfile").read_text(), re.MULTILINE
    )
    packages = {MODULES.get(package, package) for package in installed[0].split()}
    assert set(installed[0].split()) <= set(shlex.split((EXAMPLES / "inspection.service").read_text(), comments=False))
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / "0.png")
    allowed = packages | REQUIRED | {"anomalib_students"}
    code = f"""
import os, signal, sys, threading
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in sys.stdlib_module_names | {allowed!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Only())
from anomalib_students.line.command import main
if {is_watched}:
    threading.Timer(4, os.kill, (os.getpid(), signal.SIGTERM)).start()
sys.exit(main(["inspect", {str(model)!r}, {str(tmp_path / "images")!r}, "--output", {str(tmp_path / "results.csv")!r},
    *(["--watch"] if {is_watched} else [])]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (143 if is_watched else 0), done.stderr
    assert "1 images, 0 anomalous, 0 errors" in done.stderr
