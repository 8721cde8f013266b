"""What signals do, in a new process.

In a process that has exported a quantised model and run it with OpenVINO 2026.4, as that of ``test_not_finite`` has,
the next signal with a handler of Python's ends in a segmentation fault; and Ray leaves a handler of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_signals_in_a_new_process() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", Path(__file__).with_name("signals.py")]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "5 passed" in result.stdout
