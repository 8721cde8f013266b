"""The commands with Ray: cells as tasks, in processes that take on one after the other."""

import subprocess

import pandas as pd
import pytest

pytest.importorskip("ray")

from tests.integration.conftest import write_category

from .test_commands import COMMAND, SMALL, options


@pytest.mark.slow
def test_cells_are_tasks_of_ray(tmp_path):
    """One of them fails, and one needs two others."""
    write_category(tmp_path / "data" / "pill")
    settings = {"methods": "[ours]", "categories": "[pill,missing]", "patch_sizes": "[17,33]", "epochs": 1}
    settings |= {"root": "data", "results": "out", "name": "table", "ray": "true"}
    call = [*COMMAND, "mvtec", *options(**{**SMALL, **settings})]
    finished = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert finished.returncode == 1, finished.stderr[-5000:]
    assert "Started a local Ray instance" in finished.stderr
    assert "missing, ours, p33 failed: There is no folder" in finished.stderr
    table = pd.read_csv(tmp_path / "out" / "table" / "results.csv")
    pill = table[(table["table"] == "Table 3") & (table["row"] == "pill")]
    assert list(pill["column"]) == ["p = 17", "p = 33", "p = 17+33"]
