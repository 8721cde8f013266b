"""What the tests of both ways to make a teacher share: a look at each training step, and weights that are compared."""

import os

import pytest
import torch
from safetensors.torch import load_file

from anomalib_students.networks import patch_network


@pytest.fixture(scope="module")
def cheap(narrow_architectures):
    """Narrow networks, and an environment that Lightning may leave its seed in."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(patch_network, "ARCHITECTURES", narrow_architectures)
        monkeypatch.setattr(os, "environ", os.environ.copy())
        yield monkeypatch


def record_steps(monkeypatch, task, function):
    """Call a function of the task and the loss at each training step; return the list that its results go to."""
    results = []
    training_step = task.training_step

    def step(module, batch):
        loss = training_step(module, batch)
        results.append(function(module, loss))
        return loss

    monkeypatch.setattr(task, "training_step", step)
    return results


def interrupt_at(monkeypatch, task, step):
    def fail(module, _):
        if module.global_step == step:
            raise RuntimeError("power cut")

    record_steps(monkeypatch, task, fail)


def assert_same_weights(path, other):
    torch.testing.assert_close(load_file(path), load_file(other), rtol=0, atol=1e-6)
