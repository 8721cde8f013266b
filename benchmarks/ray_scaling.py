"""Measure what a second core brings to a grid of trainings.

The same grid of equal trainings, each on one core with torch's threads pinned to one, runs on a local Ray instance of
one core and then on one of two: one training at a time against two at a time. The time is that of the whole grid, with
the start of its workers and the test of the finished models, but without the start of Ray. What Ray's own processes do
comes on top of the cores that it counts. The trainings are those of configs/ray_sample_parts.yaml, on the embedded
sample parts under as many names.

    python benchmarks/ray_scaling.py --trainings 4 --epochs 4
"""

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ray
import yaml
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from anomalib_students.cluster.experiment import Experiment
from anomalib_students.cluster.grid import run_grid
from anomalib_students.cluster.workers import Workers
from anomalib_students.data import SampleParts

PINNED = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_TRAIN_V2_ENABLED": "1"}
SETTINGS = Path(__file__).parents[1] / "configs" / "ray_sample_parts.yaml"


def ray_scaling(trainings: int = 4, epochs: int = 4, patch_size: int = 33, cores: tuple[int, ...] = (1, 2)) -> None:
    """Print the trainings a minute for each number of cores, and their ratio to the first.

    Args:
        trainings: Number of trainings in the grid.
        epochs: Epochs of each.
        patch_size: Side p of the receptive field in pixels.
        cores: Numbers of cores, and with them of trainings at a time.
    """
    parts = SampleParts()
    parts.prepare_data()
    categories = [f"parts{number}" for number in range(trainings)]
    table = Table("trainings at a time", "seconds", "trainings a minute", "ratio", title=f"{os.cpu_count()} cores")
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for category in categories:
            (Path(folder) / category).symlink_to((parts.root / parts.category).resolve(), target_is_directory=True)
        for number in cores:
            # In a process of its own: Tune does not outlive the Ray instance that it began with.
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
                grid = process.submit(grid_seconds, Path(folder), categories, patch_size, epochs, number)
                seconds.append(grid.result())
            table.add_row(
                str(number),
                f"{seconds[-1]:.0f}",
                f"{60 * trainings / seconds[-1]:.2f}",
                f"{seconds[0] / seconds[-1]:.2f}",
            )
    Console().print(table)


def grid_seconds(root: Path, categories: list[str], patch_size: int, epochs: int, cores: int) -> float:
    """Time the grid on a Ray instance with a number of cores."""
    experiment = Experiment(
        data={"class_path": "MVTec", "init_args": {"root": str(root)}},
        model=yaml.safe_load(SETTINGS.read_text())["model"],
        trainer={"max_epochs": epochs, "check_val_every_n_epoch": epochs},
        storage_path=str(root),
        name=f"cores{cores}",
        workers=Workers(cpus=1),
    )
    ray.init(address="local", num_cpus=cores, log_to_driver=False, runtime_env={"env_vars": PINNED})
    try:
        start = time.perf_counter()
        failures = run_grid(experiment, categories, [patch_size])
        elapsed = time.perf_counter() - start
    finally:
        ray.shutdown()
    if failures:
        raise RuntimeError(str(failures))
    return elapsed


if __name__ == "__main__":
    os.environ.update(PINNED)
    auto_cli(ray_scaling, as_positional=False)
