"""The pretraining command in processes of its own: killed, on two devices, and on a full disk."""

import csv
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

BIN = Path(sys.executable).parent


@pytest.fixture
def start(photographs, resnet18_checkpoint, tmp_path):
    """Start a pretraining in a folder of its own; keyword arguments replace the settings."""

    def start(name, preexec_fn=None, **changes):
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
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        return subprocess.Popen(
            [BIN / "anomalib-students", "pretrain", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # One thread, so that sums are added in the same order in every process.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=preexec_fn,
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


def test_a_run_that_is_killed_and_resumed_is_the_run_that_was_not_killed(start, tmp_path):
    whole = start("whole", lambda_m=1.0, lambda_c=0.01)
    killed = start("killed", lambda_m=1.0, lambda_c=0.01)
    checkpoint = tmp_path / "killed" / "results" / "p17" / "last.ckpt"
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "p17.safetensors").exists()
    finish(whole)

    finish(start("killed", lambda_m=1.0, lambda_c=0.01, resume="true"))
    losses, expected = read_losses(tmp_path / "killed"), read_losses(tmp_path / "whole")
    assert len(expected) == 20
    assert {step: losses[step] for step in list(expected)[10:]} == pytest.approx(
        {step: expected[step] for step in list(expected)[10:]}, rel=1e-5
    )
    torch.testing.assert_close(
        load_file(tmp_path / "killed" / "p17.safetensors"), load_file(tmp_path / "whole" / "p17.safetensors")
    )


def test_two_devices_train_on_the_batches_of_one(start, tmp_path):
    """The gradients' sums differ in their order alone; eq. 5 has none over a whole batch on two devices."""
    settings = {"lambda_m": 1.0, "lambda_c": 0.0, "max_steps": 6, "checkpoint_every": 5}
    finish(start("one", **settings, batch_size=4))
    output = finish(start("two", **settings, batch_size=2, devices=2, strategy="ddp"))
    assert "MEMBER: 2/2" in output
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


def test_a_disk_that_is_full_at_a_checkpoint_ends_in_one_clear_error(start, tmp_path):
    def limit():
        # The checkpoint is larger: to the process it looks like a file system with no room for it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    process = start("full", preexec_fn=limit)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in output
    (message,) = [line for line in output.splitlines() if line.startswith("anomalib-students: ")]
    assert "last.ckpt" in message
    assert not list((tmp_path / "full").rglob("*.safetensors"))
    assert not list((tmp_path / "full").rglob("*.partial"))
