"""The notebooks run from the first to the last cell, here with trainings of a few steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = [path.name for path in EXAMPLES.glob("*.py") if "jupytext" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_to_its_end(name: str, tmp_path: Path) -> None:
    code, n_trainings = re.subn(r"(max_steps|checkpoint_every)=\d+", r"\1=4", (EXAMPLES / name).read_text())
    assert n_trainings
    script = tmp_path / name
    script.write_text(code)
    result = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "MPLBACKEND": "Agg"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_all_notebooks_are_found() -> None:
    assert sorted(NOTEBOOKS) == ["folder_to_openvino.py", "own_teacher.py", "what_students_see.py"]
