"""Pieces of an experiment that are done one by one, or at once, and only once."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anomalib_students.files import replace_file
from anomalib_students.runs.settings_check import check_unchanged

__all__ = ["Compute", "Executor", "InThisProcess", "Job", "Tell", "open_folder", "read_result", "run_job", "run_jobs"]

RESULT = "result.json"
"""File in the folder of a job that is done."""
SETTINGS = "settings.json"
BEFORE_NAMED = {"architecture": "paper"}
"""Settings of experiments that began before these could be chosen."""

Tell = Callable[[float], None]
"""What a job tells its progress, as the part of it that is done."""


@dataclass(frozen=True)
class Compute:
    """What a job computes on.

    Attributes:
        accelerator: Lightning accelerator, such as ``"cpu"`` or ``"gpu"``.
        loaders: Processes that load images, beside its own.
    """

    accelerator: str = "auto"
    loaders: int = 0


@dataclass(frozen=True)
class Job:
    """A piece of an experiment.

    Attributes:
        name: Name of its folder in the folder of the experiment.
        label: What users call it.
        work: Does it, given the folder of the experiment, what to compute on, and whom to tell the progress. It returns
            the result as plain data. If it was interrupted before, it goes on.
        needs: Names of the jobs that must be done before.
    """

    name: str
    label: str
    work: Callable[[Path, Compute, Tell], dict[str, Any]]
    needs: tuple[str, ...] = ()


class Executor(Protocol):
    """What runs jobs."""

    def start(self, job: Job) -> None:
        """Take a job on.

        Args:
            job: Job that needs no other any more.
        """

    def wait(self) -> tuple[Job, str | None]:
        """Wait for any of the jobs to end.

        Returns:
            The job, and what went wrong with it; None if nothing did.
        """


class InThisProcess:
    """Runs jobs one after the other.

    Args:
        folder: Folder of the experiment.
        compute: What to compute on.
        tell: Is told the progress of the present job.
    """

    def __init__(self, folder: Path, compute: Compute, tell: Tell) -> None:
        self._folder = folder
        self._compute = compute
        self._tell = tell
        self._jobs: deque[Job] = deque()

    def start(self, job: Job) -> None:
        """Put a job in the queue; see :class:`Executor`."""
        self._jobs.append(job)

    def wait(self) -> tuple[Job, str | None]:
        """Run the next job; see :class:`Executor`."""
        job = self._jobs.popleft()
        return job, run_job(job, self._folder, self._compute, self._tell)


def run_job(job: Job, folder: Path, compute: Compute, tell: Tell) -> str | None:
    """Do a job and keep its result.

    Args:
        job: The job.
        folder: Folder of the experiment.
        compute: What to compute on.
        tell: Is told the progress.

    Returns:
        What went wrong; None if nothing did.
    """
    try:
        result = job.work(folder, compute, tell)
        replace_file(folder / job.name / RESULT, json.dumps(result, indent=2).encode())
    except Exception as error:  # noqa: BLE001
        # Whatever it is, the other jobs may do without this one.
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    """Tell an error in a line: its message, or where that tells of an error in another process, what it ends with."""
    lines = str(error).strip().splitlines()
    told = lines[-1:] if any(line.startswith(("Traceback", "Original Traceback")) for line in lines) else lines
    return " ".join(" ".join(told).split()) or type(error).__name__


def read_result(folder: Path, name: str) -> dict[str, Any] | None:
    """Read the result of a job.

    Args:
        folder: Folder of the experiment.
        name: Name of the job.

    Returns:
        The result; None if the job is not done.
    """
    path = folder / name / RESULT
    return json.loads(path.read_bytes()) if path.is_file() else None


def run_jobs(
    jobs: Sequence[Job], folder: Path, executor: Executor, ended: Callable[[Job, str | None], None]
) -> dict[str, str]:
    """Run all jobs that are not done yet, each as soon as those that it needs are.

    Args:
        jobs: The jobs; what a job needs is among those before it.
        folder: Folder of the experiment.
        executor: Runs them.
        ended: Is called after each job with what went wrong, or None.

    Returns:
        What went wrong, by the label of the job.
    """
    waiting = [job for job in jobs if read_result(folder, job.name) is None]
    unfinished = {job.name for job in waiting}
    failed: dict[str, str] = {}
    failures: dict[str, str] = {}
    n_running = 0
    while waiting or n_running:
        for job in list(waiting):
            lacking = next((failed[name] for name in job.needs if name in failed), None)
            if lacking:
                waiting.remove(job)
                failed[job.name] = job.label
                failures[job.label] = f"it needs {lacking}, which failed"
                ended(job, failures[job.label])
            elif not unfinished & set(job.needs):
                waiting.remove(job)
                executor.start(job)
                n_running += 1
        if n_running:
            job, reason = executor.wait()
            n_running -= 1
            if reason is None:
                unfinished.remove(job.name)
            else:
                failed[job.name] = job.label
                failures[job.label] = reason
            ended(job, reason)
    return failures


def open_folder(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Tell an experiment that goes on from one that begins, and keep its settings for the former.

    Args:
        folder: Folder of the experiment.
        settings: All that decides on the results of its jobs, as JSON and paths.
        resume: Whether it is to go on if it is there.

    Raises:
        FileExistsError: If it is there, and is not to go on.
        ValueError: If it had other settings.
    """
    path = folder / SETTINGS
    if not path.is_file():
        replace_file(path, json.dumps(settings, indent=2, default=str).encode())
        return
    if not resume:
        msg = f"There is an experiment in {folder} already: go on with it by --resume true, or choose another --name."
        raise FileExistsError(msg)
    check_unchanged({**BEFORE_NAMED, **json.loads(path.read_bytes())}, settings)
