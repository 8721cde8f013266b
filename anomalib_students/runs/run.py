"""Run jobs to their end, with a bar that shows how many are done and a report that grows with them."""

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
"""Makes the files of a report, from results by the name of the job and what went wrong by its label."""

REPORT_PART = 0.1
"""Most of the time that reports take up: each is of all that is done, and would take ever longer beside short jobs."""


class Report:
    """Files that are written anew when something has changed, but not all the time.

    Args:
        storage: Where to write them.
        make: Makes them.
    """

    def __init__(self, storage: Storage, make: Callable[[], dict[str, bytes]]) -> None:
        self._storage = storage
        self._make = make
        self._next = 0.0
        self.is_current = False

    def write_if_due(self) -> None:
        """Write it if it is not current, and the last time is long enough ago."""
        if not self.is_current and monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write it now."""
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
    """Do the jobs that are not done, and write the report from time to time and in the end.

    Args:
        storage: Where results and report are.
        jobs: The jobs; what a job needs is among them.
        executor: Makes what runs them, from their number and a function for their progress.
        files: Makes the report.
        what: What the bar calls the jobs.

    Returns:
        What went wrong, by the label of the job.

    Raises:
        OSError: If the report cannot be written.
        ValueError: If there is no room for a job.
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
