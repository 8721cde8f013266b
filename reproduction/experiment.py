"""Measure the cells of the tables one after the other, each once."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from rich.markdown import Markdown

from anomalib_students.files import replace_file

from .comparison import Comparison, report_files

__all__ = ["device", "run_cells"]

RESULT = "result.json"
Result = Mapping[str, Any]


def device() -> torch.device:
    """Choose the accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def run_cells(
    folder: Path,
    cells: Mapping[tuple[str, str], Callable[[Path], Mapping[str, float]]],
    settings: Mapping[str, Any],
    seed: int,
    tables: Callable[[Sequence[Result]], Sequence[Comparison]],
) -> None:
    """Measure all cells without a result, write the report after each, and print it at the end.

    A result is the file ``<row>/<method>/result.json``. Several processes with different cells can share a folder.

    Args:
        folder: Folder of the results.
        cells: Functions that measure a cell, by row and method. They take the cell's folder, and return its figures.
        settings: Settings that decide on the figures, as plain data.
        seed: Seed of each cell.
        tables: Makes the tables of the report from all results in the folder.

    Raises:
        ValueError: If a result in the folder had other settings.
        RuntimeError: If a cell has failed; the others are measured.
    """
    console = Console(soft_wrap=True)
    settings = json.loads(json.dumps({**settings, "seed": seed}, default=str))
    failures: dict[str, str] = {}
    for number, ((row, method), measure) in enumerate(cells.items(), 1):
        path = folder / row / method / RESULT
        if path.is_file():
            _check_settings(path, settings)
            continue
        console.rule(f"{row}, {method}: {number} of {len(cells)}")
        start = time.monotonic()
        seed_everything(seed, workers=True, verbose=False)
        try:
            figures = measure(path.parent)
        # Another cell may not need what this one lacks.
        except (OSError, RuntimeError, ValueError) as error:
            failures[f"{row}, {method}"] = " ".join(str(error).split())
            console.print(f"{row}, {method} failed: {error}", markup=False, highlight=False)
        else:
            result = {"row": row, "method": method, "figures": dict(figures), "settings": settings}
            result["seconds"] = round(time.monotonic() - start, 1)
            replace_file(path, json.dumps(result, indent=2).encode())
        _write_report(folder, settings, failures, tables)
    _write_report(folder, settings, failures, tables)
    console.print(Markdown((folder / "results.md").read_text()))
    console.print(f"The results are in {folder / 'results.md'}", markup=False, highlight=False)
    if failures:
        msg = f"{len(failures)} of {len(cells)} cells failed: {'; '.join(failures)}. The same command tries them again."
        raise RuntimeError(msg)


def _check_settings(path: Path, settings: Result) -> None:
    before = json.loads(path.read_text())["settings"]
    changed = [f"{name}={before.get(name)}" for name, value in settings.items() if before.get(name) != value]
    if changed:
        msg = f"The result {path} had other settings: {', '.join(changed)}. Choose another folder with --results."
        raise ValueError(msg)


def _write_report(
    folder: Path, settings: Result, failures: Mapping[str, str], tables: Callable[[Sequence[Result]], Sequence[Any]]
) -> None:
    results = [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/*/{RESULT}"))]
    for name, content in report_files(tables(results) if results else [], settings, failures).items():
        replace_file(folder / name, content)
