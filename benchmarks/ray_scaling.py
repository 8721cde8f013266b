"""Measure what a second core brings to a grid of trainings.

The same grid of equal trainings, each on one core with torch's threads pinned to one, runs on a local Ray instance of
one core and then on one of two: one training at a time against two at a time. The time is that of the whole grid, with
the start of its workers and the test of the finished models, but without the start of Ray.

Ray's own processes, a tenth of a core for each training and more while it starts, come on top of the cores that Ray
counts. So one training at a time is measured twice: where they have the rest of the machine, and where all of Ray has
no more than the one core, as two trainings at a time have no more than the two.

The trainings are those of configs/ray_sample_parts.yaml, but of the paper's networks, on the embedded sample parts
under as many names.

    python benchmarks/ray_scaling.py --trainings 2 --epochs 3
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

from anomalib_students.data import SampleParts
from anomalib_students.runs.experiment import Experiment
from anomalib_students.runs.grid import run_grid
from anomalib_students.runs.workers import Workers

PINNED = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_TRAIN_V2_ENABLED": "1"}
SETTINGS = Path(__file__).parents[1] / "configs" / "ray_sample_parts.yaml"


def ray_scaling(trainings: int = 2, epochs: int = 3, patch_size: int = 33) -> None:
    """Print the trainings a minute, one at a time and two at a time, and the ratios.

    Args:
        trainings: Number of trainings in the grid.
        epochs: Epochs of each.
        patch_size: Side p of the receptive field in pixels.
    """
    parts = SampleParts()
    parts.prepare_data()
    categories = [f"parts{number}" for number in range(trainings)]
    machine = sorted(os.sched_getaffinity(0))
    settings = {
        "two, on two cores": (2, machine[:2]),
        "one, Ray's own processes on the rest": (1, machine),
        "one, all on one core": (1, machine[:1]),
    }
    table = Table(
        "trainings at a time", "seconds", "trainings a minute", "two at a time", title=f"{len(machine)} cores"
    )
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for category in categories:
            (Path(folder) / category).symlink_to((parts.root / parts.category).resolve(), target_is_directory=True)
        for name, (at_a_time, cores) in settings.items():
            # In a process of its own: Tune does not outlive the Ray instance that it began with.
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
                arguments = (Path(folder), categories, patch_size, epochs, at_a_time, cores)
                seconds[name] = process.submit(grid_seconds, *arguments).result()
            print(f"{name}: {seconds[name]:.0f} s", flush=True)
    (two, *_) = seconds.values()
    for name, value in seconds.items():
        table.add_row(name, f"{value:.0f}", f"{60 * trainings / value:.2f}", f"{value / two:.2f} times as fast")
    Console().print(table)


def grid_seconds(
    root: Path, categories: list[str], patch_size: int, epochs: int, at_a_time: int, cores: list[int]
) -> float:
    """Time the grid on a Ray instance that has some cores, and fills as many as there are trainings at a time."""
    os.sched_setaffinity(0, cores)
    experiment = Experiment(
        data={"class_path": "MVTec", "init_args": {"root": str(root)}},
        model=yaml.safe_load(SETTINGS.read_text())["model"] | {"architecture": "paper"},
        trainer={"max_epochs": epochs, "check_val_every_n_epoch": epochs},
        storage_path=str(root),
        name=f"{at_a_time}-of-{len(cores)}",
        workers=Workers(cpus=1),
    )
    ray.init(
        address="local",
        num_cpus=at_a_time,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": PINNED},
    )
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
