"""Jobs as tasks of Ray, as many at once as there is room for."""

from __future__ import annotations

from pathlib import Path

import ray
from ray.exceptions import RayError

from anomalib_students.cluster.command_line import connect
from anomalib_students.cluster.workers import Workers, cause

from .jobs import Compute, Job, run_job

__all__ = ["OnRay"]


class OnRay:
    """Runs jobs on a Ray cluster, or on this machine.

    A process that has imported what a job needs, which takes seconds, takes the next one on. A job whose process or
    node dies goes on elsewhere.

    Args:
        folder: Folder of the experiment, which all nodes share.
        address: Address of the cluster, or ``"auto"`` for the one of this node; None for this machine.
        cpus: CPU cores of each job.
        gpus: GPUs of each job; None for one, where there are any.

    Raises:
        ConnectionError: If there is no cluster at the address.
        ValueError: If there is not even room for one job.
    """

    def __init__(self, folder: Path, address: str | None, cpus: float, gpus: float | None) -> None:
        connect(address)
        if gpus is None:
            gpus = min(1, ray.cluster_resources().get("GPU", 0))
        workers = Workers(cpus=cpus, gpus=gpus)
        workers.concurrent_groups()
        self._folder = folder
        self._compute = Compute("gpu" if gpus else "cpu", loaders=max(0, int(cpus) - 1))
        # Of itself Ray ends a process with a GPU after each task.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=workers.max_failures, max_calls=0)
        self._task = task(_run_job)
        self._running: dict[ray.ObjectRef, Job] = {}

    def start(self, job: Job) -> None:
        """Submit a job; see :class:`.jobs.Executor`."""
        self._running[self._task.remote(job, self._folder, self._compute)] = job

    def wait(self) -> tuple[Job, str | None]:
        """Wait for any of the tasks; see :class:`.jobs.Executor`."""
        (ended,), _ = ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(ended)
        try:
            return job, ray.get(ended)
        except RayError as error:
            return job, cause(error)


def _run_job(job: Job, folder: Path, compute: Compute) -> str | None:
    return run_job(job, folder, compute, lambda _: None)
