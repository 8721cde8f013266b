"""Run an experiment: its jobs, and a report of its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from anomalib_students.paper.report import Comparison, report_files
from anomalib_students.runs.jobs import Job
from anomalib_students.runs.place import Place
from anomalib_students.runs.run import run_and_report
from anomalib_students.runs.storage import Storage

from .cells import Cell

__all__ = ["run_experiment"]


def run_experiment(
    folder: Path,
    jobs: Sequence[Job],
    tables: Callable[[dict[Cell, dict[str, Any]]], list[Comparison]],
    settings: Mapping[str, Any],
    place: Place,
) -> None:
    """Run the jobs without a result, write the report as they end, and print it at the end.

    ``tables`` makes the tables of the report from the cells that are done. Raise a RuntimeError if a job has failed.
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
    """Select the results of cells, including those not selected now."""
    return {
        Cell(result["row"], result["method"], result["variant"]): result
        for _, result in sorted(results.items())
        if "row" in result
    }
