"""Connect to a Ray cluster, or start one that only this machine can reach."""

import os
from typing import Any

import ray

from anomalib_students.mends.ray_loopback import reached_from_here_only

__all__ = ["connect"]


def connect(address: str | None) -> None:
    """Connect to the cluster at an address, or this node's (``"auto"``), or start one for this machine alone (None)."""
    # Tune drives Train differently in Ray's first version of Train.
    environment = {"RAY_TRAIN_V2_ENABLED": "1"}
    os.environ.update(environment)
    if ray.is_initialized():
        return
    # Within a job of the cluster, an address in the environment would be taken for one that is given.
    where = address or ("auto" if "RAY_JOB_ID" in os.environ else "local")
    arguments: dict[str, Any] = {"address": where, "runtime_env": {"env_vars": environment}, "log_to_driver": False}
    if where != "local":
        ray.init(**arguments)
        return
    # Ray would report its use to an analytics host.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with reached_from_here_only() as loopback:
        ray.init(**arguments, **loopback)
