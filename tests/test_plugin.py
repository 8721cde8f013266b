"""The registration in anomalib, seen by fresh processes: what a process has imported can't be undone.

Importing anomalib takes several seconds, so a process checks all that it can. Of the modules that a program can import
first those are tested that differ: importing a submodule imports its package, so ``anomalib.models.components`` is
``anomalib.models`` again, ``anomalib`` is ``anomalib.data``, and ``lightning`` is ``torch``, which the process of the
tests has imported first. The test of the worker is that of ``anomalib.models``.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

NAMES_RESOLVE = """
import warnings

warnings.filterwarnings("error", category=RuntimeWarning, module="anomalib_students")
import {first}

import anomalib
from anomalib.data import MVTec, SampleParts
from anomalib import models
from anomalib.models import UninformedStudents, get_model, list_models
from anomalib.models.image import UninformedStudents as ImageModel
import anomalib_students
from anomalib_students.model.lightning_model import UninformedStudents as OurModel

assert UninformedStudents is ImageModel is OurModel is models.UninformedStudents is anomalib_students.UninformedStudents
assert MVTec is anomalib_students.MVTec
assert SampleParts is anomalib_students.SampleParts
assert "uninformed_students" in list_models()
assert models.components.AnomalibModule.__subclasses__().count(OurModel) == 1
for package, name in ((models, "UninformedStudents"), (models.image, "UninformedStudents"), (anomalib.data, "MVTec")):
    assert package.__all__.count(name) == 1
"""

NO_ANOMALIB = """
import sys
import torch

print(sorted(name for name in sys.modules if name.split(".")[0] in {"anomalib", "anomalib_students", "lightning"}))
"""

BROKEN_MODEL = """
import sys, warnings

sys.modules["anomalib_students.model.lightning_model"] = None
import torch

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from anomalib.models import Padim, list_models
assert "padim" in list_models()
assert "uninformed_students" not in list_models()
from anomalib.data import MVTec
print(*(warning.message for warning in caught if "anomalib-students" in str(warning.message)))
"""

AUTOLOAD_OFF = """
from anomalib import models, data

assert "uninformed_students" not in models.list_models()
import anomalib_students.model.lightning_model
assert "uninformed_students" in models.list_models()
assert not hasattr(models, "UninformedStudents")

from anomalib_students.plugin import activate
activate()
assert models.UninformedStudents is anomalib_students.UninformedStudents
assert data.MVTec is anomalib_students.MVTec
"""


def run(*command: str | Path, **environment: str) -> str:
    """Run the command in the environment that a user has, and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    finished = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "anomalib.data",
        "anomalib_students.model.lightning_model",
        "anomalib_students.model.torch_model",
    ],
)
def test_names_resolve_whatever_is_imported_first(first):
    run(sys.executable, "-c", NAMES_RESOLVE.format(first=first))


def test_names_resolve_in_the_process_of_the_tests():
    with warnings.catch_warnings():
        exec(NAMES_RESOLVE.format(first="torch"), {})


@pytest.mark.slow
def test_names_resolve_in_a_spawned_worker():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
        workers.submit(exec, NAMES_RESOLVE.format(first="anomalib.models"), {}).result()


def test_a_program_without_anomalib_imports_nothing_but_the_plugin():
    assert run(sys.executable, "-c", NO_ANOMALIB).strip() == "['anomalib_students', 'anomalib_students.plugin']"


@pytest.mark.slow
def test_a_fault_in_the_model_is_a_warning_with_its_cause():
    warning = run(sys.executable, "-c", BROKEN_MODEL)
    assert "could not register" in warning
    assert "ModuleNotFoundError: import of anomalib_students.model.lightning_model halted" in warning


@pytest.mark.slow
def test_registration_by_hand_when_torch_calls_no_entry_point():
    run(sys.executable, "-c", AUTOLOAD_OFF, TORCH_DEVICE_BACKEND_AUTOLOAD="0")


def test_get_datamodule_takes_our_names(tmp_path):
    from anomalib.data import get_datamodule

    from anomalib_students import MVTec

    config = {"class_path": "MVTec", "init_args": {"root": str(tmp_path), "category": "pill"}}
    assert type(get_datamodule(config)) is MVTec


def test_get_model_takes_our_names():
    from anomalib.models import get_model

    from anomalib_students import UninformedStudents

    paths = ("UninformedStudents", "anomalib.models.UninformedStudents", "anomalib.models.image.UninformedStudents")
    for model in ("uninformed_students", "UninformedStudents", *({"class_path": path} for path in paths)):
        assert type(get_model(model)) is UninformedStudents


def test_command_line_takes_our_names(capsys):
    from anomalib.cli import AnomalibCLI

    with pytest.raises(SystemExit):
        AnomalibCLI(["train", "--model", "UninformedStudents", "--data", "MVTec", "--print_config"])
    config = capsys.readouterr().out
    assert "class_path: anomalib_students.UninformedStudents" in config
    assert "class_path: anomalib_students.MVTec" in config


@pytest.mark.slow
def test_ray_worker_has_the_model():
    ray = pytest.importorskip("ray")
    import anomalib.models

    def models_of_worker() -> set[str]:
        # By its module, which is pickled with the function, although the plugin has given it a class of its own.
        return anomalib.models.list_models()

    # Not one that some other program has started on this machine.
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    try:
        assert "uninformed_students" in ray.get(ray.remote(models_of_worker).remote())
    finally:
        ray.shutdown()
