"""The pretraining command: killed, on two devices, and on a full disk."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anomalib_students import cli

from ..reliability.disks import limited_files

NARROW_COMMAND = """
import sys

from anomalib_students.cli import main
from anomalib_students.networks.patch_network import LAYERS

LAYERS[17] = tuple(layer._replace(channels=layer.channels and layer.channels // 16) for layer in LAYERS[17])
main(sys.argv[1:])
"""
"""The command ``anomalib-students`` with ``narrow_networks``."""

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def options(photographs, resnet18_checkpoint, tmp_path):
    """Options of a pretraining in a folder of its own; keyword arguments replace the settings."""

    def options(name, **changes):
        settings = {
            "images": photographs,
            "output": tmp_path / name / "p17.safetensors",
            "results": tmp_path / name / "results",
            "patch_size": 17,
            "descriptor_dim": 8,
            "source_checkpoint": resnet18_checkpoint,
            "source_layer": "layer1",
            "source_size": 32,
            "max_steps": 40,
            "batch_size": 4,
            "lr": 1e-4,
            "accelerator": "cpu",
            "checkpoint_every": 10,
            **changes,
        }
        return [part for name, value in settings.items() for part in (f"--{name}", str(value))]

    return options


@pytest.fixture
def call(options, monkeypatch):
    """Pretrain in this process, which has imported what takes a new one seconds."""
    # Lightning leaves its seed in the environment.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda name, **changes: cli.main(["pretrain", *options(name, **changes)])
    torch.set_num_threads(threads)


@pytest.fixture
def start(options, tmp_path):
    """Start a pretraining in a process of its own."""
    (tmp_path / "command.py").write_text(NARROW_COMMAND)

    def start(name, **changes):
        return subprocess.Popen(
            [sys.executable, tmp_path / "command.py", "pretrain", *options(name, **changes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # One thread, so that sums are added in the same order in every process.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    return start


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def read_losses(folder):
    """Loss of each logged step; the steps that were done again after a kill must have given the same."""
    losses: dict[int, float] = {}
    for path in sorted(Path(folder).glob("results/*/csv/*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                if row["distillation"]:
                    step, loss = int(row["step"]), float(row["distillation"])
                    assert losses.setdefault(step, loss) == pytest.approx(loss, rel=1e-5)
    return losses


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_the_run_that_was_not_killed(start, call, tmp_path):
    settings = {"lambda_m": 1.0, "lambda_c": 0.01}
    killed = start("killed", **settings)
    checkpoint = tmp_path / "killed" / "results" / "p17" / "last.ckpt"
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "p17.safetensors").exists()

    call("killed", **settings, resume="true")
    call("whole", **settings)
    losses, expected = read_losses(tmp_path / "killed"), read_losses(tmp_path / "whole")
    assert len(expected) == 20
    assert {step: losses[step] for step in list(expected)[10:]} == pytest.approx(
        {step: expected[step] for step in list(expected)[10:]}, rel=1e-5
    )
    torch.testing.assert_close(
        load_file(tmp_path / "killed" / "p17.safetensors"), load_file(tmp_path / "whole" / "p17.safetensors")
    )


@pytest.mark.slow
def test_two_devices_train_on_the_batches_of_one(start, call, tmp_path):
    """The gradients' sums differ only in their order; eq. 5 has none over a whole batch on two devices."""
    settings = {"lambda_m": 1.0, "lambda_c": 0.0, "max_steps": 6, "checkpoint_every": 5}
    output = finish(start("two", **settings, batch_size=2, devices=2, strategy="ddp"))
    assert "MEMBER: 2/2" in output
    call("one", **settings, batch_size=4)
    losses, expected = read_losses(tmp_path / "two"), read_losses(tmp_path / "one")
    assert len(expected) == 6
    assert losses == pytest.approx(expected, rel=1e-4)
    # Half precision in the file, and Adam's division by small gradients.
    torch.testing.assert_close(
        load_file(tmp_path / "two" / "p17.safetensors"),
        load_file(tmp_path / "one" / "p17.safetensors"),
        rtol=1e-2,
        atol=1e-4,
    )


def test_a_disk_that_is_full_at_a_checkpoint_ends_in_one_clear_error(call, tmp_path):
    # The checkpoint is larger.
    with limited_files(2**16), pytest.raises(SystemExit, match=r"^anomalib-students: .*last\.ckpt") as ended:
        call("full")
    assert "\n" not in str(ended.value.code)
    assert not list((tmp_path / "full").rglob("*.safetensors"))
    assert not list((tmp_path / "full").rglob("*.partial"))
