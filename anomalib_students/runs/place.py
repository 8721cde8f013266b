"""Where jobs run: one after the other in this process, or in parallel with Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

from .jobs import Compute, Executor, InThisProcess, OnProgress
from .storage import Storage

__all__ = ["Place"]

MOST_LOADERS = 4
"""Processes that load images if jobs run one after the other."""


@dataclass(frozen=True)
class Place:
    """Where jobs run.

    Attributes:
        ray: Whether to use Ray; None to use it if it helps.
        address: Address of a Ray cluster; None for this machine.
        cpus: CPU cores of each job, with Ray.
        gpus: GPUs of each job, with Ray; None for one, if there are any.
    """

    ray: bool | None = None
    address: str | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and that Ray is installed if it is asked for."""
        if self.ray and find_spec("ray") is None:
            msg = "Ray is not installed: pip install 'anomalib-students[ray]', or leave out --ray true."
            raise ValueError(msg)
        if self.cpus <= 0 or (self.gpus or 0) < 0:
            msg = (
                f"A cell needs more than no CPU core, and no negative number of GPUs; got {self.cpus} and {self.gpus}."
            )
            raise ValueError(msg)

    def uses_ray(self, n_jobs: int) -> bool:
        """Whether to use Ray: by default if it is installed, and there is an address or room for several jobs."""
        if self.ray is not None:
            return self.ray
        return find_spec("ray") is not None and n_jobs > 1 and (self.address is not None or self._room() > 1)

    def _room(self) -> int:
        """Count the jobs that this machine can run at once."""
        import torch

        devices = torch.cuda.device_count()
        gpus = min(1, devices) if self.gpus is None else self.gpus
        room = (os.cpu_count() or 1) // self.cpus
        return int(min(room, devices // gpus) if gpus else room)

    def executor(self, storage: Storage, n_jobs: int, on_progress: OnProgress) -> Executor:
        """Make the executor of a number of jobs; only one that runs them in this process reports their progress.

        Raise a ValueError if there is no room for a job.
        """
        if self.uses_ray(n_jobs):
            from .connection import connect
            from .ray_executor import OnRay
            from .workers import Workers, gpus_of

            connect(self.address)
            return OnRay(storage, Workers(cpus=self.cpus, gpus=gpus_of(self.gpus)), on_progress)
        loaders = min(MOST_LOADERS, (os.cpu_count() or 1) - 1)
        return InThisProcess(storage, Compute(loaders=loaders), on_progress)
