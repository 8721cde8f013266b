"""A Ray cluster: the connection to it, groups of workers that train together, and the tasks that wait for them."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from jsonargparse import Namespace
from tqdm import tqdm

if find_spec("ray") is None:
    raise ModuleNotFoundError("The Ray jobs need Ray: pip install 'anomalib-students[ray]'")

import ray
from ray.exceptions import RayError, RayTaskError
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

ENVIRONMENT = {
    # Tune drives Train differently in the first version of Train.
    "RAY_TRAIN_V2_ENABLED": "1",
    # Relative paths stay valid in workers.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
Task = tuple[str, ray.ObjectRef, bool]
"""Name of a task for users, the task, and whether it waits for a group of workers."""


def connect(settings: Namespace) -> None:
    """Connect to a cluster, or start one on this machine; raise a ValueError if it has no room for the workers."""
    os.environ.update(ENVIRONMENT)
    if not ray.is_initialized():
        # Within a job of the cluster, an address in the environment would be taken for one that is given.
        where = settings.address or ("auto" if "RAY_JOB_ID" in os.environ else "local")
        if where == "local":
            # Ray would report its use to an analytics host.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=where, runtime_env={"env_vars": ENVIRONMENT}, log_to_driver=False)
    if settings.gpus_per_worker is None:
        settings.gpus_per_worker = min(1, ray.cluster_resources().get("GPU", 0))
    settings.accelerator = "gpu" if settings.gpus_per_worker else "cpu"
    settings.resources = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    if not room(settings):
        needed = f"{settings.cpus_per_worker:g} CPU and {settings.gpus_per_worker:g} GPU"
        raise ValueError(f"The cluster has no room for {settings.workers} worker(s) with {needed} each.")


def room(settings: Namespace) -> int:
    """Count the groups of workers that the cluster can run at once."""
    available = ray.cluster_resources()
    needed = {name: amount * settings.workers for name, amount in settings.resources.items() if amount}
    return min(int(available.get(name, 0) // amount) for name, amount in needed.items())


def run_on_workers(
    function: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    settings: Namespace,
    folder: str,
    name: str,
    callbacks: Sequence[Any] = (),
) -> Result:
    """Run or resume a function of ``config`` on each worker of a group; return what they reported last."""
    trainer = TorchTrainer(
        function,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=bool(settings.gpus_per_worker),
            resources_per_worker=settings.resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )
    try:
        return trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(reason_of(error)) from error


def run_tasks(tasks: Iterable[Task], total: int, settings: Namespace) -> Iterator[tuple[str, Any, str | None]]:
    """Yield name, result and reason of failure of tasks, which are submitted as soon as there is room for another."""
    running: dict[ray.ObjectRef, tuple[str, bool]] = {}
    with tqdm(total=total, desc="Jobs") as bar:

        def wait() -> tuple[str, Any, str | None]:
            (task,), _ = ray.wait(list(running))
            name, _ = running.pop(task)
            try:
                result, reason = ray.get(task), None
            except RayError as error:
                result, reason = None, reason_of(error)
            bar.write(f"{name}: {reason or 'done'}", file=sys.stderr)
            bar.update()
            return name, result, reason

        for name, task, waits in tasks:
            running[task] = (name, waits)
            while sum(waiting for _, waiting in running.values()) >= max(1, room(settings)):
                yield wait()
        while running:
            yield wait()


def reason_of(error: BaseException) -> str:
    """Put an error in a line: the message of its cause, or the last line of a traceback of another process."""
    while isinstance(error, RayTaskError):
        error = error.cause
    for failure in getattr(error, "worker_failures", {}).values():
        return reason_of(failure)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines[-1:] if any("Traceback" in line for line in lines) else lines
    return " ".join(lines) or type(error).__name__
