"""Run an experiment: its jobs, and a report of its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from anomalib_students.runs.jobs import Job
from anomalib_students.runs.place import Place
from anomalib_students.runs.run import run_and_report
from anomalib_students.runs.storage import Storage

from .cells import Cell
from .report import Comparison, report_files

__all__ = ["run_experiment"]


def run_experiment(
    folder: Path,
    jobs: Sequence[Job],
    tables: Callable[[dict[Cell, dict[str, Any]]], list[Comparison]],
    settings: Mapping[str, Any],
    place: Place,
) -> None:
    """Do the jobs that are not done, write the report as they end, and show it in the end.

    Args:
        folder: Folder of the experiment.
        jobs: Its jobs; what a job needs is among them.
        tables: Makes the tables of the cells that are done.
        settings: What decides on the results.
        place: Where to do the jobs.

    Raises:
        OSError: If the report cannot be written.
        RuntimeError: If a job has failed.
        ValueError: If there is no room for one.
    """
    storage = Storage(str(folder))

    def files(results: Mapping[str, dict[str, Any]], failures: Mapping[str, str]) -> dict[str, bytes]:
        return report_files(tables(_cells(results)), settings, failures)

    failures = run_and_report(
        storage, jobs, lambda n_jobs, on_progress: place.executor(storage, n_jobs, on_progress), files, what="cells"
    )
    console = Console()
    console.print(Markdown((folder / "results.md").read_text()))
    console.print(f"The results are in {folder / 'results.md'}", markup=False, highlight=False, soft_wrap=True)
    if failures:
        msg = f"{len(failures)} of {len(jobs)} cells failed: {'; '.join(failures)}. --resume true tries them again."
        raise RuntimeError(msg)


def _cells(results: Mapping[str, dict[str, Any]]) -> dict[Cell, dict[str, Any]]:
    """Results of all cells that are done, those of other selections too."""
    return {
        Cell(result["row"], result["method"], result["variant"]): result
        for _, result in sorted(results.items())
        if "row" in result
    }
