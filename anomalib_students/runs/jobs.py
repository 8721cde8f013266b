"""Jobs that need one another: each is done once, as soon as those that it needs are done."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple, Protocol

from .storage import Storage

__all__ = [
    "Compute",
    "Executor",
    "InThisProcess",
    "Job",
    "OnProgress",
    "Outcome",
    "read_result",
    "read_results",
    "run_job",
    "run_jobs",
]

RESULT = "result.json"
"""File in the folder of a job that is done."""

OnProgress = Callable[[float | None], None]
"""Is called with the part of a job that is done, or from time to time with None."""


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
    """A piece of work.

    Attributes:
        name: Name of its folder in the storage.
        label: What users call it.
        work: Does it, given the storage, what to compute on, and a function for its progress. It returns the result as
            plain data. If it was interrupted before, it is resumed.
        needs: Names of the jobs that must be done before.
        has_workers: Whether it starts workers, which compute, and only waits for them.
    """

    name: str
    label: str
    work: Callable[[Storage, Compute, OnProgress], dict[str, Any]]
    needs: tuple[str, ...] = ()
    has_workers: bool = False


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        result: Its result, if it is done.
        reason: What went wrong; None if nothing did.
        of_another: Whether it went wrong with a job that this one needs, and which has been reported.
    """

    result: dict[str, Any] | None = None
    reason: str | None = None
    of_another: bool = False


class Executor(Protocol):
    """What runs jobs."""

    def has_room(self, job: Job) -> bool:
        """Whether to start a job now."""

    def start(self, job: Job) -> None:
        """Start a job, which needs no other any more."""

    def wait(self) -> tuple[Job, Outcome]:
        """Wait for any of the jobs that were started to end."""


class InThisProcess:
    """Runs jobs one after the other.

    Args:
        storage: Where the jobs keep their results.
        compute: What to compute on.
        on_progress: Is called with the progress of the present job.
    """

    def __init__(self, storage: Storage, compute: Compute, on_progress: OnProgress) -> None:
        self._storage = storage
        self._compute = compute
        self._on_progress = on_progress
        self._job: Job | None = None

    def has_room(self, job: Job) -> bool:
        """Take one job at a time; see :class:`Executor`."""
        del job
        return self._job is None

    def start(self, job: Job) -> None:
        """Take the job; see :class:`Executor`."""
        self._job = job

    def wait(self) -> tuple[Job, Outcome]:
        """Run the job; see :class:`Executor`."""
        assert self._job is not None
        job, self._job = self._job, None
        return job, run_job(job, self._storage, self._compute, self._on_progress)


def run_job(job: Job, storage: Storage, compute: Compute, on_progress: OnProgress) -> Outcome:
    """Do a job and keep its result; say what became of it."""
    try:
        result = job.work(storage, compute, on_progress)
        storage.write_json(f"{job.name}/{RESULT}", result)
    except Exception as error:  # noqa: BLE001
        # Whatever it is, the other jobs may do without this one.
        return Outcome(reason=_reason(error))
    return Outcome(result)


def _reason(error: Exception) -> str:
    """Put an error in a line: its message, or if that is of an error in another process, what it ends with."""
    lines = str(error).strip().splitlines()
    said = lines[-1:] if any(line.startswith(("Traceback", "Original Traceback")) for line in lines) else lines
    return " ".join(" ".join(said).split()) or type(error).__name__


def read_results(storage: Storage) -> dict[str, dict[str, Any]]:
    """Read the results of all jobs that are done, by name, those of other selections too."""
    names = storage.names(RESULT)
    results = storage.read_json_files(names)
    return {name.removesuffix(f"/{RESULT}"): result for name, result in zip(names, results, strict=True)}


def read_result(storage: Storage, name: str) -> dict[str, Any]:
    """Read the result of a job that is done."""
    return storage.read_json(f"{name}/{RESULT}")


def run_jobs(
    jobs: Sequence[Job],
    results: dict[str, dict[str, Any]],
    executor: Executor,
    ended: Callable[[Job, Outcome], None],
) -> None:
    """Run all jobs that are not done yet, each as soon as those that it needs are done, the first of the list first.

    Args:
        jobs: The jobs; what a job needs is among them, or done.
        results: By name, the results of the jobs that are done. Those of other jobs are added.
        executor: Runs them.
        ended: Is called after each job, those included that need one that failed.
    """
    places = {job.name: place for place, job in enumerate(jobs) if job.name not in results}
    lacking = {name: set(jobs[place].needs) - results.keys() for name, place in places.items()}
    needing = defaultdict(list)
    for name, needs in lacking.items():
        for needed in needs:
            needing[needed].append(name)
    ready = [places[name] for name, needs in lacking.items() if not needs]
    heapify(ready)
    n_running = 0
    failed: set[str] = set()
    while ready or n_running:
        while ready and executor.has_room(jobs[ready[0]]):
            executor.start(jobs[heappop(ready)])
            n_running += 1
        over = deque([executor.wait()])
        n_running -= 1
        while over:
            job, outcome = over.popleft()
            if outcome.result is not None:
                results[job.name] = outcome.result
            ended(job, outcome)
            for name in needing[job.name]:
                lacking[name].discard(job.name)
                if outcome.reason is None:
                    if not lacking[name] and name not in failed:
                        heappush(ready, places[name])
                elif name not in failed:
                    failed.add(name)
                    reason = f"it needs {job.label}, which failed"
                    over.append((jobs[places[name]], Outcome(reason=reason, of_another=True)))
