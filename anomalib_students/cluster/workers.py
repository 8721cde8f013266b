"""Groups of processes that train together: how many, what each of them needs, and how often they may die."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from pyarrow.fs import FileSystem
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from .storage import exists, read_json, write_json

__all__ = ["TRIAL_RESOURCES", "Run", "Workers", "cause", "run_on_workers"]

TRIAL_RESOURCES: dict[str, float] = {"memory": 300 * 2**20}
"""What a trial of Tune needs to wait for its workers: bytes, but no core. Those are the workers'."""


@dataclass(frozen=True)
class Workers:
    """A group of processes that train together.

    Attributes:
        number: Processes in the group.
        cpus: CPU cores of each.
        gpus: GPUs of each; processes with fractions share one.
        max_failures: How often the group goes on from its last checkpoint when one of them has died.
    """

    number: int = 1
    cpus: float = 1
    gpus: float = 0
    max_failures: int = 2

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for each process."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def concurrent_groups(self) -> int:
        """Count the groups for which the cluster has room at once.

        Returns:
            Number of groups, at least 1.

        Raises:
            ValueError: If there is not even room for one.
        """
        available = ray.cluster_resources()
        needed = {name: amount * self.number for name, amount in self.resources.items()}
        lacking = [f"{amount:g} {name}" for name, amount in needed.items() if available.get(name, 0) < amount]
        if lacking:
            msg = f"The cluster lacks {' and '.join(lacking)}, which {self.number} worker(s) need."
            raise ValueError(msg)
        return min(int(available[name] // amount) for name, amount in needed.items() if amount)


@dataclass(frozen=True)
class Run:
    """A run of a function on a group of workers.

    Attributes:
        storage_path: Folder that all nodes reach, or a cloud URI.
        name: Name of the run, a folder in it. A run of this name that was interrupted goes on from its last checkpoint.
        attempt: Name of the job's present attempt. What has failed in it is not tried again, though its trial is
            when its own process dies; a job that is resumed is another attempt.
    """

    storage_path: str
    name: str
    attempt: str

    def failure(self) -> str | None:
        """Tell why the run has failed.

        Returns:
            The reason, None if it has not failed in this attempt.
        """
        file_system, path = self._failed()
        if not exists(file_system, path):
            return None
        failure = read_json(file_system, path)
        return failure["reason"] if failure["attempt"] == self.attempt else None

    def check(self) -> None:
        """Go on only if the run has not failed.

        Raises:
            RuntimeError: With the reason, if it has.
        """
        reason = self.failure()
        if reason is not None:
            raise RuntimeError(reason)

    def record_failure(self, reason: str) -> None:
        """Keep the reason of a failure.

        Args:
            reason: What to tell the user.
        """
        file_system, path = self._failed()
        write_json(file_system, path, {"attempt": self.attempt, "reason": reason})

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record errors that another attempt would find again, such as those of bad data.

        The death of a worker is none of them, nor what the others then raise.
        """
        try:
            yield
        except (ValueError, FileNotFoundError) as error:
            self.record_failure(str(error))
            raise

    def _failed(self) -> tuple[FileSystem, str]:
        file_system, folder = FileSystem.from_uri(self.storage_path)
        return file_system, f"{folder}/{self.name}/failed.json"


def run_on_workers(
    function: Callable[[dict[str, Any]], None], config: dict[str, Any], workers: Workers, run: Run
) -> Result:
    """Run a function on a group of workers, from within a trial of Tune that waits for them.

    Args:
        function: Function of a dictionary, which runs in each worker.
        config: The dictionary.
        workers: The group.
        run: Name of the run.

    Returns:
        What the workers have reported last.

    Raises:
        RuntimeError: If they fail more often than they may, or one of them has recorded a failure.
    """
    run.check()
    trainer = TorchTrainer(
        partial(_work, function, run),
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers.number, use_gpu=workers.gpus > 0, resources_per_worker=workers.resources
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage_path,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        reason = run.failure() or cause(error)
        run.record_failure(reason)
        raise RuntimeError(reason) from error
    run.check()
    return result


def _work(function: Callable[[dict[str, Any]], None], run: Run, config: dict[str, Any]) -> None:
    """Run the function on a worker, unless it would fail again."""
    if run.failure() is None:
        with run.recorded():
            function(config)


def cause(error: BaseException) -> str:
    """Tell the cause of an error; the lines before it tell the way it took through the cluster.

    Args:
        error: Error of a trial or a task.

    Returns:
        Its last line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What a run raises with the reason of its failure.
    return lines[-1].removeprefix("RuntimeError: ") if lines else type(error).__name__
