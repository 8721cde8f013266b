"""Installing the package adds names to anomalib and changes nothing else: its Padim does and says what it does without.

A process goes through anomalib's commands with the plugin, and one without, as ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``
leaves it. Each reports what it did, and every attribute of every module of the packages that could be altered.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .integration.conftest import write_category

REGISTERED = {f"anomalib.data.{name}" for name in ("MVTec", "Parts", "SampleParts")} | {
    f"{module}.UninformedStudents" for module in ("anomalib.models", "anomalib.models.image")
}
WRAPPED = {
    "anomalib.cli.cli.AnomalibCLI.instantiate_classes",
    "anomalib.engine.engine.Engine._setup_trainer",
}
"""Functions of anomalib that are wrapped, each of which does what it did unless the model is ours."""

TIMES = r"[-\d]+ [\d:]+,\d+|\[[\d/]+ [\d:]+\] *|W\d{4} [\d:.]+ +\d+| {2,}|[\d.]+ (seconds|FPS)"
"""What differs in two processes: times, and how lines of messages are filled."""

PROGRAM = r"""
import contextlib, hashlib, io, json, re, sys, types, warnings
from pathlib import Path

PACKAGES = {"anomalib", "jsonargparse", "lightning", "openvino", "openvino_telemetry", "PIL", "ray", "torch"}


def told(value, module):
    "What a value is, in words that are the same in every process."
    if isinstance(value, type) and value.__module__ == module:
        return {name: told(each, None) for name, each in vars(value).items()}
    if isinstance(value, set | frozenset | list | tuple) and all(isinstance(each, str) for each in value):
        value = repr(sorted(value))
    if isinstance(value, str | int | float | None):
        # Without addresses and random names.
        return re.sub(r"0x[0-9a-f]+|\d{12,}|[0-9a-f-]{36}", "", repr(value))
    with contextlib.suppress(Exception):
        value = getattr(value, "fget", None) or getattr(value, "__func__", value)
        names = [str(getattr(value, name, "")) for name in ("__module__", "__qualname__")]
        return [str(type(value)), *names, getattr(getattr(value, "__code__", None), "co_firstlineno", 0)]
    return str(type(value))


import anomalib.cli.cli, anomalib.deploy, anomalib.models, openvino
from lightning.pytorch import seed_everything

root, results = map(Path, sys.argv[1:])
did = {}


def run(name, *arguments):
    printed = io.StringIO()
    sys.argv = ["anomalib", *map(str, arguments)]
    seed_everything(0)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            anomalib.cli.cli.main()
            ended = None
        except SystemExit as error:
            ended = ["exit", str(error.code)]
        except Exception as error:
            ended = [type(error).__name__, str(error)]
    did[name] = [ended, printed.getvalue()]


resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [32, 32]}}
resize = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": resize}}
padim = ["--model", "Padim", "--model.backbone", "resnet18", "--model.pre_trained", "false", "--model.n_features", "5"]
padim += ["--model.pre_processor", json.dumps(resize)]
trainer = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
trainer += ["--default_root_dir", results]
data = ["--data", "MVTecAD", "--data.root", root, "--data.category", "dots", "--data.num_workers", "0"]
run("train", "train", *padim, *trainer, *data)
loaded = [*padim, *trainer, "--ckpt_path", next(results.rglob("model.ckpt"))]
run("test", "test", *loaded, *data)
run("predict", "predict", *loaded, "--data", root / "dots" / "test" / "square")
run("export", "export", *loaded, "--export_type", "openvino", "--export_root", results)
run("no data", "train", *padim, *trainer, "--data", "MVTecAD", "--data.root", root / "gone")
run("no value", "train", *padim, *trainer, *data, "--model.n_features", "many")
run("no compression", "export", *loaded, "--export_type", "openvino", "--compression_type", "int8_ptq")
run("no file", "export", *padim, *trainer, "--ckpt_path", "gone.ckpt", "--export_type", "onnx")
did["weights"] = hashlib.sha256(next(results.rglob("model.bin")).read_bytes()).hexdigest()
# By itself it chooses bfloat16 where the processor has it, even if oneDNN may not use it.
openvino.compile_model(next(results.rglob("model.xml")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
modules = {
    name: {attribute: told(value, name) for attribute, value in list(vars(module).items()) if attribute != "__all__"}
    for name, module in list(sys.modules.items())
    if name.partition(".")[0] in PACKAGES and isinstance(module, types.ModuleType)
}
results.with_suffix(".json").write_text(json.dumps([did, modules], default=str))
"""


def flat(modules: dict) -> dict:
    """Attributes of modules, and those of their classes, by their whole names."""
    found = {}
    for name, value in modules.items():
        found |= (
            {f"{name}.{key}": each for key, each in flat(value).items()} if isinstance(value, dict) else {name: value}
        )
    return found


@pytest.mark.slow
def test_padim_does_what_it_does_without_the_package(tmp_path: Path) -> None:
    write_category(tmp_path / "data" / "dots")
    results = tmp_path / "results"
    reports = []
    for autoload in "01":
        command = [sys.executable, "-c", PROGRAM, tmp_path / "data", results]
        environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": autoload, "COLUMNS": "250"}
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)
        reports.append(json.loads(re.sub(TIMES, "", results.with_suffix(".json").read_text())))
        results.rename(tmp_path / f"results{autoload}")
    (did, modules), (did_with, modules_with) = reports
    assert did["train"][0] is did["predict"][0] is did["export"][0] is None
    for command, what in did.items():
        assert did_with[command] == what
    in_both = modules.keys() & modules_with.keys()
    before, after = (flat({name: each[name] for name in in_both}) for each in (modules, modules_with))
    assert {
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    } == REGISTERED | WRAPPED
