"""Run jobs as tasks of Ray, as many at once as there is room for."""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from .jobs import Compute, Job, OnProgress, Outcome, run_job
from .storage import Storage
from .workers import Workers, cause

__all__ = ["OnRay"]

SECONDS = 2.0
"""Time between two calls of ``on_progress``."""
WAITING_MEMORY = 300 * 2**20
"""Bytes reserved for a job that waits for its workers, which have the cores."""


class OnRay:
    """Run jobs on the connected Ray cluster; see :class:`.jobs.Executor`.

    Processes are reused, since importing what a job needs takes seconds. A job whose process or node dies is resumed
    elsewhere. ``workers`` are the resources of a job, or the workers that it starts.
    """

    def __init__(self, storage: Storage, workers: Workers, on_progress: OnProgress) -> None:
        workers.check_room()
        self._storage = storage
        self._workers = workers
        self._on_progress = on_progress
        self._compute = Compute("gpu" if workers.gpus else "cpu", loaders=max(0, int(workers.cpus) - 1))
        # By default Ray ends a process with a GPU after each task.
        task = ray.remote(max_retries=workers.max_failures, max_calls=0)(_run_job)
        self._computing = task.options(num_cpus=workers.cpus, num_gpus=workers.gpus)
        self._waiting = task.options(num_cpus=0, memory=WAITING_MEMORY)
        self._running: dict[ray.ObjectRef, Job] = {}

    def has_room(self, job: Job) -> bool:
        """Keep as many jobs as the cluster has room for, and as many again queued if they compute themselves."""
        room = max(1, self._workers.room())
        return len(self._running) < (room if job.has_workers else 2 * room)

    def start(self, job: Job) -> None:
        """Submit a job."""
        task = self._waiting if job.has_workers else self._computing
        self._running[task.remote(job, self._storage, self._compute)] = job

    def wait(self) -> tuple[Job, Outcome]:
        """Wait for any of the tasks."""
        ended: list[ray.ObjectRef] = []
        while not ended:
            ended, _ = ray.wait(list(self._running), num_returns=1, timeout=SECONDS)
            if not ended:
                self._on_progress(None)
        job = self._running.pop(ended[0])
        try:
            return job, ray.get(ended[0])
        except RayError as error:
            return job, Outcome(reason=cause(error))


def _run_job(job: Job, storage: Storage, compute: Compute) -> Outcome:
    return run_job(job, storage, compute, lambda _: None)
