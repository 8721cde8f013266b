"""Checks after a kill, and after the resumed run: whole files, none of them lost, the same weights."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from soak_jobs import checkpoints

__all__ = ["RESULTS", "State", "damaged", "difference", "lost", "missing"]

State = dict[str, torch.Tensor]

READERS: dict[str, Callable[[Path], object]] = {
    ".ckpt": lambda path: torch.load(path, weights_only=False),
    ".safetensors": load_file,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": pd.read_csv,
}
"""How files are read of which half a file is none, by their suffix."""
KEPT_BY_RAY = "checkpoint_"
"""Beginning of the names of folders and files of which Ray itself knows which is complete."""


def judged(files: Iterable[Path]) -> list[Path]:
    """Leave out the internal files of Ray and the loggers."""
    return [
        path
        for path in files
        if not any(part.startswith(KEPT_BY_RAY) or part in {"csv", "tensorboard"} for part in path.parts)
    ]


def damaged(folder: Path, files: Iterable[Path]) -> list[str]:
    """Name the files that cannot be read."""
    return [f"{path} is damaged: {fault}" for path in judged(files) if (fault := _fault(folder / path))]


def _fault(path: Path) -> str | None:
    try:
        READERS.get(path.suffix, Path.stat)(path)
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__} {error}"
    return None


def lost(before: Iterable[Path], after: Iterable[Path]) -> list[str]:
    """Name the files that have disappeared."""
    return [f"{path} is lost" for path in sorted(set(judged(before)) - set(judged(after)))]


def missing(expected: Iterable[Path], files: Iterable[Path]) -> list[str]:
    """Name the files of the uninterrupted run that the resumed one lacks, whatever the number of its version."""
    return [f"{name} is missing" for name in sorted(_unversioned(expected) - _unversioned(files))]


def _unversioned(files: Iterable[Path]) -> set[str]:
    return {re.sub(r"(^|/)v\d+/", r"\1v/", path.as_posix()) for path in judged(files)}


def trained(folder: Path) -> State:
    """State of the model in the last checkpoint."""
    return _tensors(torch.load(checkpoints(folder)[-1], weights_only=False)["state_dict"])


def pretrained(folder: Path) -> State:
    """Teacher in its file, and the state of the pretraining."""
    return trained(folder) | _tensors(load_file(folder / "p17.safetensors"), "teacher file ")


def exported(folder: Path) -> State:
    """Bytes of the exported model."""
    files = sorted((folder / "weights" / "openvino").iterdir())
    return {path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in files}


def gridded(folder: Path) -> State:
    """Finished model, its last checkpoint in training, and its results."""
    root = folder / "storage" / "train"
    last = json.loads((root / "noise-p17" / "result.json").read_text())["checkpoint"]
    in_training = torch.load(Path(last) / "checkpoint.ckpt", weights_only=False)["state_dict"]
    finished = torch.load(root / "noise" / "model.ckpt", weights_only=False)["state_dict"]
    table = pd.read_csv(root / "results.csv").select_dtypes("number")
    results = {f"results {name}": torch.tensor(table[name].to_numpy()) for name in table}
    return _tensors(in_training, "in training ") | _tensors(finished) | results


RESULTS: dict[str, Callable[[Path], State]] = {
    "train": trained,
    "pretrain": pretrained,
    "export": exported,
    "grid": gridded,
}
"""What is compared, by kind of job."""


def difference(first: State, second: State) -> float:
    """Find the largest difference; infinity if names, shapes or NaN differ."""
    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in second.items()}:
        return float("inf")
    largest = 0.0
    for name, value in first.items():
        a, b = value.double(), second[name].double()
        if not torch.equal(a.isnan(), b.isnan()):
            return float("inf")
        unlike = (a != b) & ~a.isnan()
        largest = max(largest, float((a - b)[unlike].abs().max()) if unlike.any() else 0.0)
    return largest


def _tensors(state: dict[str, Any], prefix: str = "") -> State:
    return {prefix + name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
