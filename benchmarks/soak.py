"""Kill commands at random, resume them, and compare the results with those of uninterrupted runs.

``anomalib train``, ``anomalib-students pretrain`` and an OpenVINO export over an older one, with the sample parts, are
killed with SIGKILL, as all that they have started. No file may then be half-written under its final name,
and the old export or the new one has to be there. The same command is started again, from the last checkpoint if there
is one, and has to end with the weights of an uninterrupted run.

    python benchmarks/soak.py                                       # 15 kills
    python benchmarks/soak.py --train 1 --pretrain 0 --export 0

The exit status is 1 if a check failed. ``tests/ray_jobs`` kills the Ray jobs.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import auto_cli
from safetensors.torch import load_file

from anomalib_students.data import SampleParts

EPOCHS = 4
TRAINING = {
    "seed_everything": 0,
    "model": {
        "class_path": "UninformedStudents",
        "init_args": {"patch_sizes": [83], "visualizer": False},
    },
    "data": {"class_path": "SampleParts", "init_args": {"num_workers": 0}},
    "trainer": {
        "accelerator": "cpu",
        "logger": False,
        "max_epochs": EPOCHS,
        "check_val_every_n_epoch": EPOCHS,
        "callbacks": [
            {
                "class_path": "anomalib.callbacks.ModelCheckpoint",
                "init_args": {"filename": "model", "save_on_train_epoch_end": True},
            }
        ],
    },
}
PRETRAINING = {
    "patch_size": 17,
    "descriptor_dim": 8,
    "lambda_k": 0.0,
    "lambda_m": 1.0,
    "batch_size": 4,
    "max_steps": 20,
    "checkpoint_every": 4,
    "accelerator": "cpu",
    "resume": "true",
}
COMMANDS = Path(sys.executable).parent
"""Folder of the environment's commands, which need not be on the path."""
State = dict[str, torch.Tensor]


def training(folder: Path) -> list[object]:
    """Command of a training, from its last checkpoint if there is one."""
    config = folder.parent / "train.yaml"
    # Every JSON document is a YAML document.
    config.write_text(json.dumps(TRAINING))
    last = [f"--ckpt_path={path}" for path in checkpoints(folder)[-1:]]
    return [COMMANDS / "anomalib", "train", "-c", config, f"--default_root_dir={folder}", *last]


def pretraining(folder: Path) -> list[object]:
    """Command of a pretraining."""
    parts = SampleParts()
    parts.prepare_data()
    paths = {"images": parts.root / parts.category / "train", "output": folder / "p17.safetensors", "results": folder}
    options = (f"--{name}={value}" for name, value in {**PRETRAINING, **paths}.items())
    return [COMMANDS / "anomalib-students", "pretrain", *options]


def exporting(folder: Path, *options: str) -> list[object]:
    """Command of an export of the trained model."""
    options = (f"--ckpt_path={checkpoints(folder.parent / 'training')[-1]}", f"--export_root={folder}", *options)
    return [COMMANDS / "anomalib", "export", "--model=UninformedStudents", "--export_type=openvino", *options]


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, the latest at the end."""
    paths = [path for path in folder.rglob("*.ckpt") if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)


def state(folder: Path) -> State:
    """Weights of checkpoints and teachers, and bytes of exports; a damaged file raises an error."""
    found: State = {}
    for path in checkpoints(folder):
        weights = torch.load(path, weights_only=False)["state_dict"]
        found |= {name: value.double() for name, value in weights.items() if isinstance(value, torch.Tensor)}
    for path in folder.glob("*.safetensors"):
        found |= {f"teacher {name}": value.double() for name, value in load_file(path).items()}
    for path in folder.glob("weights/openvino/*"):
        found[path.name] = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    return found


def are_equal(first: State, second: State) -> bool:
    """Compare weights to 1e-5, and bytes."""
    return first.keys() == second.keys() and all(
        value.shape == second[name].shape and torch.allclose(value, second[name], rtol=0, atol=1e-5, equal_nan=True)
        for name, value in first.items()
    )


def run(command: list[object], log: Path, kill_after: float | None = None) -> tuple[float, int]:
    """Run a command, and kill it with all its processes after some seconds; return its seconds and status."""
    start = time.monotonic()
    with log.open("a") as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return time.monotonic() - start, process.returncode


def kill_and_resume(command: Callable[[Path], list[object]], folder: Path, seconds: float, wholes: list[State]) -> str:
    """Kill a command, resume it, and say what is wrong. ``wholes`` are the new result and, of exports, the old one."""
    log = folder.with_suffix(".log")
    _, status = run(command(folder), log, random.uniform(0, seconds))
    try:
        left = state(folder)
    except Exception as error:  # noqa: BLE001
        return f"a file is damaged: {error}"
    if len(wholes) > 1 and not any(are_equal(left, whole) for whole in wholes):
        return "there is neither the old export nor the new one"
    if status:
        _, status = run(command(folder), log)
    if status:
        return f"the resumed command ended with status {status}: see {log}"
    return "" if are_equal(state(folder), wholes[0]) else "the result differs from that of an uninterrupted run"


def soak(
    train: int = 5, pretrain: int = 5, export: int = 5, seed: int = 0, folder: Path = Path("results/soak")
) -> None:
    """Kill, resume, compare, and print what is wrong.

    Args:
        train: Kills of ``anomalib train``.
        pretrain: Kills of ``anomalib-students pretrain``.
        export: Kills of ``anomalib export`` over an older export.
        seed: Seed of the times of the kills.
        folder: Folder for what the commands write, which is emptied. What went wrong is kept in it.
    """
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random.seed(seed)
    failed = False
    for command, kills in ((training, max(train, export)), (pretraining, pretrain), (exporting, export)):
        if not kills:
            continue
        reference, old = folder / command.__name__, folder / "old"
        seconds, status = run(command(reference), reference.with_suffix(".log"))
        if status:
            sys.exit(f"Without a kill, {command.__name__} ended with status {status}: see {reference}.log")
        wholes = [state(reference)]
        if command is exporting:
            run(exporting(old, "--compression_type=fp16"), old.with_suffix(".log"))
            wholes.append(state(old))
        for number in range(train if command is training else kills):
            place = folder / f"{command.__name__}-{number}"
            if command is exporting:
                shutil.copytree(old, place)
            wrong = kill_and_resume(command, place, seconds, wholes)
            print(f"{place.name}: {wrong or 'as if uninterrupted'}", flush=True)
            failed |= bool(wrong)
            if not wrong:
                shutil.rmtree(place)
    sys.exit(int(failed))


if __name__ == "__main__":
    auto_cli(soak, as_positional=False)
