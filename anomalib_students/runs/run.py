"""Run jobs to their end, with a progress bar and a report that grows with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .jobs import Executor, Job, OnProgress, Outcome, read_results, run_jobs
from .storage import Storage

__all__ = ["Files", "run_and_report"]

Results = Mapping[str, dict[str, Any]]
Files = Callable[[Results, Mapping[str, str]], dict[str, bytes]]
"""Makes the files of a report from results by the name of the job, and reasons of failures by its label."""

REPORT_PART = 0.1
"""Largest part of the time that reports may take: each covers all jobs that are done, and takes ever longer."""


class Report:
    """Files that are written again after changes, but not all the time."""

    def __init__(self, storage: Storage, make: Callable[[], dict[str, bytes]]) -> None:
        self._storage = storage
        self._make = make
        self._next = 0.0
        self.is_current = False

    def write_if_due(self) -> None:
        """Write the files if they are outdated, and the last time is long enough ago."""
        if not self.is_current and monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write the files now."""
        start = monotonic()
        for name, content in self._make().items():
            self._storage.write(name, content)
        self.is_current = True
        end = monotonic()
        self._next = end + (end - start) / REPORT_PART


def run_and_report(
    storage: Storage,
    jobs: Sequence[Job],
    executor: Callable[[int, OnProgress], Executor],
    files: Files,
    what: str = "jobs",
) -> dict[str, str]:
    """Run the jobs without a result, and write the report from time to time and at the end.

    Args:
        storage: Folder of results and report.
        jobs: The jobs, including all that they need.
        executor: Makes the executor from the number of jobs and a function for their progress.
        files: Makes the report.
        what: Name of the jobs in the progress bar.

    Returns:
        Reasons of failures by the label of the job.
    """
    failures: dict[str, str] = {}
    results = read_results(storage)
    n_done = sum(job.name in results for job in jobs)
    report = Report(storage, lambda: files(results, failures))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(what, total=len(jobs), completed=n_done)

        def on_progress(part: float | None) -> None:
            if part is not None:
                progress.update(bar, description=f"{what}, the present one {part:.0%}")
            report.write_if_due()

        def ended(job: Job, outcome: Outcome) -> None:
            if outcome.reason is not None:
                failures[job.label] = outcome.reason
            if outcome.reason is not None and not outcome.of_another:
                said = f"{job.label} failed: {outcome.reason}"
                progress.console.print(said, markup=False, highlight=False, soft_wrap=True)
            progress.update(bar, advance=1, description=what)
            report.is_current = False
            report.write_if_due()

        report.write()
        run_jobs(jobs, results, executor(len(jobs) - n_done, on_progress), ended)
        if not report.is_current:
            report.write()
    return failures
