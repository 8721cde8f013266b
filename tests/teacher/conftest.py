"""What the tests of both ways to make a teacher share: short runs, a look at each step, and weights to compare."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from anomalib_students import cli
from anomalib_students.networks import patch_network
from anomalib_students.teacher import pretrain as pretraining
from anomalib_students.teacher.distil import Distillation, distil
from anomalib_students.teacher.pretrain import TeacherPretraining, pretrain


@dataclass(eq=False)
class Task:
    """A way to make a teacher, its module, and its settings."""

    make: Callable[..., Any]
    module: type
    settings: dict[str, Any]


PRETRAIN = Task(
    pretrain, TeacherPretraining, {"source_layer": "layer1", "source_size": 32, "batch_size": 8, "lr": 1e-2}
)
DISTIL = Task(distil, Distillation, {"crop_side": 40, "components": 12, "batch_size": 4})


@pytest.fixture(scope="module")
def cheap(narrow_layers):
    """Narrow networks, few measurements, and an environment that Lightning may leave its seed in."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(patch_network, "LAYERS", narrow_layers)
        monkeypatch.setattr(os, "environ", os.environ.copy())
        for name, value in {"STATISTICS_BATCHES": 4, "HELD_OUT_BATCHES": 2, "MEASURED_BATCH_SIZE": 8}.items():
            monkeypatch.setattr(pretraining, name, value)
        yield


@pytest.fixture(scope="module")
def task(request):
    """The task of a file, unless it has a fixture of its own."""
    return request.module.TASK


@pytest.fixture(scope="module")
def settings(task, photographs, resnet18_checkpoint):
    """Settings of a run of six steps; with a source network of random weights."""
    shared = {"images": photographs, "patch_size": 17, "descriptor_dim": 8, "accelerator": "cpu"}
    source = {"sources": {"resnet18": resnet18_checkpoint}}
    if task is PRETRAIN:
        source = {"source_checkpoint": resnet18_checkpoint}
    return {**shared, "max_steps": 6, "checkpoint_every": 2, **source, **task.settings}


@pytest.fixture(scope="module")
def finished(cheap, task, settings, tmp_path_factory):
    """Folder of a run that nothing has interrupted: its teacher, and its results."""
    folder = tmp_path_factory.mktemp("finished")
    task.make(**settings, output=folder / "p17.safetensors", results=folder / "results")
    return folder


@pytest.fixture
def run(cheap, task, settings, tmp_path):
    """Make a teacher in a few steps; keyword arguments replace the settings."""

    def run(**changes):
        paths = {"output": tmp_path / "p17.safetensors", "results": tmp_path / "results"}
        return task.make(**{**settings, **paths, **changes})

    return run


@pytest.fixture
def call(cheap, task, settings, tmp_path):
    """Make a teacher by the command; keyword arguments replace the settings."""

    def call(*more, **changes):
        paths = {"output": tmp_path / "p17.safetensors", "results": tmp_path / "results"}
        options = {**settings, **paths, **changes}
        options.update({f"sources.{name}": path for name, path in options.pop("sources", {}).items()})
        cli.main([task.make.__name__, *(f"--{name}={value}" for name, value in options.items()), *more])

    return call


def record_steps(monkeypatch, task, function):
    """Call a function of the module and the loss at each training step; return the list that its results go to."""
    results = []
    training_step = task.module.training_step

    def step(module, batch):
        loss = training_step(module, batch)
        results.append(function(module, loss))
        return loss

    monkeypatch.setattr(task.module, "training_step", step)
    return results


def assert_same_weights(path, other):
    torch.testing.assert_close(load_file(path), load_file(other), rtol=0, atol=1e-6)
