"""Groups of processes that train together: how many, what each of them needs, and how often they may die."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("ray") is None:
    msg = "The Ray jobs need Ray: pip install 'anomalib-students[ray]'"
    raise ModuleNotFoundError(msg)

import ray

from .storage import Storage

if TYPE_CHECKING:
    from ray.train import Result

__all__ = ["Run", "Workers", "cause", "gpus_of", "run_on_workers"]


@dataclass(frozen=True)
class Workers:
    """A group of processes that train together.

    Attributes:
        number: Processes in the group.
        cpus: CPU cores of each.
        gpus: GPUs of each; processes with fractions share one.
        max_failures: How often the group is resumed from its last checkpoint when one of them has died.
    """

    number: int = 1
    cpus: float = 1
    gpus: float = 0
    max_failures: int = 2

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for each process."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def room(self) -> int:
        """Count the groups for which the cluster has room at once."""
        available = ray.cluster_resources()
        needed = {name: amount * self.number for name, amount in self.resources.items() if amount}
        return min(int(available.get(name, 0) // amount) for name, amount in needed.items())

    def check_room(self) -> None:
        """Raise a ValueError if the cluster has no room for a group."""
        available = ray.cluster_resources()
        needed = {name: amount * self.number for name, amount in self.resources.items()}
        lacking = [f"{amount:g} {name}" for name, amount in needed.items() if available.get(name, 0) < amount]
        if lacking:
            msg = f"The cluster lacks {' and '.join(lacking)}, which {self.number} worker(s) need."
            raise ValueError(msg)


def gpus_of(gpus: float | None) -> float:
    """Number of GPUs that a user asks for; by default one, if the cluster has any."""
    return min(1, ray.cluster_resources().get("GPU", 0)) if gpus is None else gpus


@dataclass(frozen=True)
class Run:
    """A run of a function on a group of workers.

    Attributes:
        storage: Folder that all nodes reach.
        name: Name of the run, a folder in it. A run of this name that was interrupted is resumed from its last
            checkpoint.
    """

    storage: Storage
    name: str

    def failure(self) -> str | None:
        """Why the run has failed, and is not to be tried again; None if it has not failed."""
        return self.storage.read_json(self._file)

    def record_failure(self, reason: str | None) -> None:
        """Keep the reason of a failure for the user; None to try the run again."""
        self.storage.write_json(self._file, reason)

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

    @property
    def _file(self) -> str:
        return f"{self.name}/failed.json"


def run_on_workers(
    function: Callable[[dict[str, Any]], None], config: dict[str, Any], workers: Workers, run: Run
) -> Result:
    """Run a function on a group of workers, and wait for them.

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
    # A process that does other jobs can do without torch.
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    run.record_failure(None)
    trainer = TorchTrainer(
        partial(_work, function, run),
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers.number, use_gpu=workers.gpus > 0, resources_per_worker=workers.resources
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage.location,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(run.failure() or cause(error)) from error
    reason = run.failure()
    if reason is not None:
        raise RuntimeError(reason)
    return result


def _work(function: Callable[[dict[str, Any]], None], run: Run, config: dict[str, Any]) -> None:
    """Run the function on a worker, unless it would fail again."""
    if run.failure() is None:
        with run.recorded():
            function(config)


def cause(error: BaseException) -> str:
    """Find the cause of an error in its last line; those before it are the way it took through the cluster."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What a run raises with the reason of its failure.
    return lines[-1].removeprefix("RuntimeError: ") if lines else type(error).__name__
