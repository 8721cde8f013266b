"""Groups of processes that train together."""

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
        number: Number of processes.
        cpus: CPU cores of each.
        gpus: GPUs of each; processes with fractions share one.
        max_failures: How often the group is resumed from its last checkpoint after one of them has died.
    """

    number: int = 1
    cpus: float = 1
    gpus: float = 0
    max_failures: int = 2

    @property
    def resources(self) -> dict[str, float]:
        """Resources that Ray reserves for each process."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def room(self) -> int:
        """Count the groups that the cluster can run at once."""
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
    """GPUs of a process as the user asks for them; by default one, if the cluster has any."""
    return min(1, ray.cluster_resources().get("GPU", 0)) if gpus is None else gpus


@dataclass(frozen=True)
class Run:
    """A named run of a function on a group of workers. An interrupted run of that name is resumed."""

    storage: Storage
    name: str

    def failure(self) -> str | None:
        """Reason why the run would fail again; None if there is none."""
        return self.storage.read_json(self._file)

    def record_failure(self, reason: str | None) -> None:
        """Store the reason of a failure; None to try the run again."""
        self.storage.write_json(self._file, reason)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record errors that another attempt would raise again, such as those of bad data.

        Errors after the death of a worker are not recorded.
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
    """Run a function of ``config`` on each worker of a group; return what they have reported last.

    Raise a RuntimeError if they fail too often, or one of them has recorded a failure.
    """
    # Processes that run other jobs need not import torch.
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
    from ray.train.collective import broadcast_from_rank_zero

    # All workers decide alike, before the first of them can fail: one that did not take part would be waited for.
    if broadcast_from_rank_zero(run.failure() is None):
        with run.recorded():
            function(config)


def cause(error: BaseException) -> str:
    """Find the cause of an error in its last line; those before it are tracebacks of other processes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A run raises it with the reason of its failure.
    return lines[-1].removeprefix("RuntimeError: ") if lines else type(error).__name__
