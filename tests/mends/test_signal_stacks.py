"""Tests that signals are handled after OpenVINO's plugin is gone."""

import subprocess
import sys

import pytest

DELETED = """
import os, signal
import anomalib.models
import openvino

cores = [openvino.Core(), openvino.Core()]
for core in cores:
    core.get_property("CPU", "FULL_DEVICE_NAME")
del core
cores.pop({first})
cores.pop()
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(True))
os.kill(os.getpid(), signal.SIGUSR1)
assert handled
"""


@pytest.mark.parametrize("first", [0, 1])
def test_signals_are_handled_after_two_cores_were_deleted_in_any_order(first):
    process = subprocess.run([sys.executable, "-c", DELETED.format(first=first)], check=False)
    assert process.returncode == 0
