"""The Ray job that pretrains a teacher for each patch size."""

import pytest
import torch
from safetensors.torch import load_file

from anomalib_students.teacher.pretrain import pretrain

from .conftest import kill, wait_for

pytestmark = pytest.mark.slow


def test_a_killed_job_goes_on_to_the_teacher_of_the_command(cluster, start_job, run_job, photographs, tmp_path):
    """Beside a patch size that there is no network for."""
    settings = {
        "images": photographs,
        "descriptor_dim": 8,
        "lambda_k": 0.0,
        "lambda_m": 1.0,
        "lambda_c": 0.0,
        "max_steps": 12,
        "batch_size": 4,
        "checkpoint_every": 3,
    }
    folder = tmp_path / "teachers"
    options = [f"--{name}={value}" for name, value in settings.items()]
    options += [f"--address={cluster}", f"--output_folder={folder}", "--patch_sizes=[17,19]"]
    job = start_job("pretrain.py", *options)
    wait_for(job, (folder / "p17" / "last.ckpt").exists)
    kill(job)
    assert not (folder / "p17.safetensors").exists()

    output = run_job("pretrain.py", *options, code=1)
    assert f"p = 17: {folder / 'p17.safetensors'}" in output
    assert "p = 19 failed: 'paper' has no network for patch size 19" in output
    alone = tmp_path / "alone.safetensors"
    pretrain(**settings, output=alone, patch_size=17, accelerator="cpu", results=tmp_path / "results")
    # Sums are added in another order with more threads.
    torch.testing.assert_close(load_file(folder / "p17.safetensors"), load_file(alone), rtol=1e-2, atol=1e-3)


def test_missing_images_are_told_before_anything_is_started(run_job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = run_job("pretrain.py", "--images=nothing", "--output_folder=teachers", code=2)
    assert output.splitlines()[-1] == "pretrain.py: The image folder nothing does not exist."
    assert not (tmp_path / "teachers").exists()
