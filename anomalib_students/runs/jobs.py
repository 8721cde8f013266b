"""Jobs that depend on one another: each runs once, as soon as the jobs that it needs are done."""

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
"""Called with the part of a job that is done, or from time to time with None."""


@dataclass(frozen=True)
class Compute:
    """What a job computes on.

    Attributes:
        accelerator: Lightning accelerator, such as ``"cpu"`` or ``"gpu"``.
        loaders: Additional processes that load images.
    """

    accelerator: str = "auto"
    loaders: int = 0


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        name: Name of its folder in the storage.
        label: Name for users.
        work: Function that does it, of the storage, the hardware and a function to report progress. It returns the
            result as plain data. If it was interrupted before, it resumes.
        needs: Names of the jobs that must be done before.
        has_workers: Whether it starts workers and only waits for them.
    """

    name: str
    label: str
    work: Callable[[Storage, Compute, OnProgress], dict[str, Any]]
    needs: tuple[str, ...] = ()
    has_workers: bool = False


class Outcome(NamedTuple):
    """The result of a job, or the reason of its failure, which may be that of another job it needs."""

    result: dict[str, Any] | None = None
    reason: str | None = None
    of_another: bool = False


class Executor(Protocol):
    """Runs jobs."""

    def has_room(self, job: Job) -> bool:
        """Whether a job can be started now."""

    def start(self, job: Job) -> None:
        """Start a job whose needs are done."""

    def wait(self) -> tuple[Job, Outcome]:
        """Wait until any of the started jobs ends."""


class InThisProcess:
    """Run jobs one after the other in this process; see :class:`Executor`."""

    def __init__(self, storage: Storage, compute: Compute, on_progress: OnProgress) -> None:
        self._storage = storage
        self._compute = compute
        self._on_progress = on_progress
        self._job: Job | None = None

    def has_room(self, job: Job) -> bool:
        """Take one job at a time."""
        del job
        return self._job is None

    def start(self, job: Job) -> None:
        """Keep the job until :meth:`wait` runs it."""
        self._job = job

    def wait(self) -> tuple[Job, Outcome]:
        """Run the job."""
        assert self._job is not None
        job, self._job = self._job, None
        return job, run_job(job, self._storage, self._compute, self._on_progress)


def run_job(job: Job, storage: Storage, compute: Compute, on_progress: OnProgress) -> Outcome:
    """Run a job and store its result."""
    try:
        result = job.work(storage, compute, on_progress)
        storage.write_json(f"{job.name}/{RESULT}", result)
    except Exception as error:  # noqa: BLE001
        # Other jobs may not need this one.
        return Outcome(reason=_reason(error))
    return Outcome(result)


def _reason(error: Exception) -> str:
    """Put an error in a line: its message, or the last line of a traceback from another process."""
    lines = str(error).strip().splitlines()
    said = lines[-1:] if any(line.startswith(("Traceback", "Original Traceback")) for line in lines) else lines
    return " ".join(" ".join(said).split()) or type(error).__name__


def read_results(storage: Storage) -> dict[str, dict[str, Any]]:
    """Read the results of all jobs in the storage by name, including those not selected now."""
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
    """Run all jobs without a result, in the order of the list as far as their needs allow.

    ``results`` holds results by the name of the job, and those of the jobs are added. ``ended`` is called after each
    job, and for each that cannot run because one that it needs has failed.
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
