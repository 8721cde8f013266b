"""Run an experiment: its jobs, and a report that grows with each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_students.files import replace_file

from .cells import Cell
from .jobs import RESULT, Compute, Executor, InThisProcess, Job, Tell, read_result, run_jobs
from .report import Comparison, report_files

__all__ = ["Place", "read_cells", "run_experiment"]

MOST_LOADERS = 4
"""Processes that load images where cells are done one after the other."""


@dataclass(frozen=True)
class Place:
    """Where cells are done.

    Attributes:
        ray: Whether by Ray; None for where it helps.
        address: Address of a Ray cluster; None for this machine.
        cpus: CPU cores of each cell, with Ray.
        gpus: GPUs of each cell, with Ray; None for one, where there are any.

    Raises:
        ValueError: If Ray is to be used, and is not installed, or a number is out of range.
    """

    ray: bool | None = None
    address: str | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        """See that it can be had."""
        if self.ray and find_spec("ray") is None:
            msg = "Ray is not installed: pip install 'anomalib-students[ray]', or leave out --ray true."
            raise ValueError(msg)
        if self.cpus <= 0 or (self.gpus or 0) < 0:
            msg = (
                f"A cell needs more than no CPU core, and no negative number of GPUs; got {self.cpus} and {self.gpus}."
            )
            raise ValueError(msg)

    def uses_ray(self, n_jobs: int) -> bool:
        """Decide whether to use Ray.

        Args:
            n_jobs: Number of jobs to do.

        Returns:
            What the user has said; otherwise whether Ray is installed, and there is an address, or this machine has
            room for more than one cell at a time.
        """
        if self.ray is not None:
            return self.ray
        return find_spec("ray") is not None and n_jobs > 1 and (self.address is not None or self._room() > 1)

    def _room(self) -> int:
        """Count the cells for which this machine has room at a time."""
        import torch

        devices = torch.cuda.device_count()
        gpus = min(1, devices) if self.gpus is None else self.gpus
        room = (os.cpu_count() or 1) // self.cpus
        return int(min(room, devices // gpus) if gpus else room)

    def executor(self, folder: Path, n_jobs: int, tell: Tell) -> Executor:
        """Make what does the jobs.

        Args:
            folder: Folder of the experiment.
            n_jobs: Number of jobs to do.
            tell: Is told the progress of a job, where there is but one at a time.

        Returns:
            The executor.
        """
        if self.uses_ray(n_jobs):
            from .ray_executor import OnRay

            return OnRay(folder, self.address, self.cpus, self.gpus)
        loaders = min(MOST_LOADERS, (os.cpu_count() or 1) - 1)
        return InThisProcess(folder, Compute(loaders=loaders), tell)


def run_experiment(
    folder: Path,
    jobs: Sequence[Job],
    tables: Callable[[dict[Cell, dict[str, Any]]], list[Comparison]],
    settings: Mapping[str, Any],
    place: Place,
) -> None:
    """Do the jobs that are not done, write the report after each, and show it at last.

    Args:
        folder: Folder of the experiment.
        jobs: Its jobs; what a job needs is among those before it.
        tables: Makes the tables of the cells that are done.
        settings: What decides on the results.
        place: Where to do the jobs.

    Raises:
        OSError: If the report cannot be written.
        RuntimeError: If a job has failed.
        ValueError: If there is no room for one.
    """
    failures: dict[str, str] = {}
    n_done = sum(read_result(folder, job.name) is not None for job in jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("cells", total=len(jobs), completed=n_done)

        def tell(part: float) -> None:
            progress.update(bar, description=f"cells, the present one {part:.0%}")

        def ended(job: Job, reason: str | None) -> None:
            if reason is not None:
                failures[job.label] = reason
                progress.console.print(f"{job.label} failed: {reason}", markup=False, highlight=False, soft_wrap=True)
            progress.update(bar, advance=1, description="cells")
            _write_report(folder, tables, settings, failures)

        _write_report(folder, tables, settings, failures)
        run_jobs(jobs, folder, place.executor(folder, len(jobs) - n_done, tell), ended)
    console = Console()
    console.print(Markdown((folder / "results.md").read_text()))
    console.print(f"The results are in {folder / 'results.md'}", markup=False, highlight=False, soft_wrap=True)
    if failures:
        msg = f"{len(failures)} of {len(jobs)} cells failed: {'; '.join(failures)}. --resume true tries them again."
        raise RuntimeError(msg)


def read_cells(folder: Path) -> dict[Cell, dict[str, Any]]:
    """Read the results of all cells that are done.

    Args:
        folder: Folder of the experiment.

    Returns:
        Results by cell.
    """
    results = [json.loads(path.read_bytes()) for path in sorted(folder.glob(f"*/*/{RESULT}"))]
    return {Cell(result["row"], result["method"], result["variant"]): result for result in results if "row" in result}


def _write_report(
    folder: Path,
    tables: Callable[[dict[Cell, dict[str, Any]]], list[Comparison]],
    settings: Mapping[str, Any],
    failures: Mapping[str, str],
) -> None:
    for name, content in report_files(tables(read_cells(folder)), settings, failures).items():
        replace_file(folder / name, content)
