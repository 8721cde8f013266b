"""Measure the overhead of the runner of jobs on a simulated cluster, with trainings that do nothing.

The jobs are those of ``ray_jobs/train.py``: for each category a check of its data, a training of each of three scales,
and a job that finishes it; but each returns its result at once. Ray simulates the nodes on this machine. The benchmark
measures the time from job to job, the report, which grows with the categories, the memory of the driver, and the time
to resume when all but ten jobs are done. Some jobs before start the processes of the nodes, as trainings do too.

    python benchmarks/ray_scaling.py --jobs "[100,1000]"
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from jsonargparse import auto_cli
from measuring import machine
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from anomalib_students.paper.grid_report import grid_report
from anomalib_students.runs.experiment import Experiment
from anomalib_students.runs.grid import grid_jobs
from anomalib_students.runs.jobs import Job
from anomalib_students.runs.ray_executor import OnRay
from anomalib_students.runs.run import run_and_report
from anomalib_students.runs.storage import Storage
from anomalib_students.runs.workers import Workers

PATCH_SIZES = (17, 33, 65)
PER_CATEGORY = 2 + len(PATCH_SIZES)
METRICS = {"image_AUROC": 0.9, "pixel_AUROC": 0.95, "pixel_AUPRO": 0.8}
WARM_UP = 50
LEFT = 10
"""Jobs that a resumed run finds undone."""


class Measured(NamedTuple):
    """What a run took.

    Attributes:
        seconds: Time of all.
        reports: Number of reports.
        report_seconds: Time of all reports together.
        last_report_seconds: Time of the last report, of all categories.
        megabytes: Memory of the driver afterwards.
    """

    seconds: float
    reports: int
    report_seconds: float
    last_report_seconds: float
    megabytes: float


def ray_scaling(jobs: list[int] = [100, 1000], nodes: int = 8, folder: Path | None = None) -> None:  # noqa: B006
    """Print the times and the memory for numbers of jobs.

    Args:
        jobs: Numbers of jobs, multiples of five.
        nodes: Simulated nodes, of one core each.
        folder: Folder for the results, on the file system to measure. By default one for temporary files.
    """
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False)
    table = Table("", *(f"{number:,} jobs" for number in jobs), title=machine(torch.device("cpu")))
    runs, resumed = {}, {}
    try:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            run(WARM_UP, Path(root) / "warm-up")
            for number in jobs:
                place = Path(root) / str(number)
                runs[number] = run(number, place)
                for job in all_jobs(number)[-LEFT:]:
                    shutil.rmtree(place / job.name)
                resumed[number] = run(number, place)
    finally:
        ray.shutdown()
        cluster.shutdown()
    rows = {
        "a job, with its part of the reports": [f"{1000 * runs[n].seconds / n:.1f} ms" for n in jobs],
        "reports": [f"{runs[n].reports}" for n in jobs],
        "all reports": [f"{runs[n].report_seconds:.1f} s" for n in jobs],
        "the last report": [f"{runs[n].last_report_seconds:.2f} s" for n in jobs],
        "memory of the driver": [f"{runs[n].megabytes:.0f} MB" for n in jobs],
        f"resumed with {LEFT} jobs left": [f"{resumed[n].seconds:.1f} s" for n in jobs],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console().print(table)


def run(number: int, place: Path) -> Measured:
    """Run the jobs without a result in a folder."""
    storage, workers, took = Storage(str(place)), Workers(), []

    def files(results: Mapping[str, dict[str, Any]], failures: Mapping[str, str]) -> dict[str, bytes]:
        begin = time.perf_counter()
        report = grid_report([result for result in results.values() if "rows" in result], failures)
        took.append(time.perf_counter() - begin)
        return report

    start = time.perf_counter()
    failures = run_and_report(
        storage, all_jobs(number), lambda _, on_progress: OnRay(storage, workers, on_progress), files
    )
    seconds = time.perf_counter() - start
    if failures:
        raise RuntimeError(str(failures))
    return Measured(seconds, len(took), sum(took), took[-1], megabytes())


def all_jobs(number: int) -> list[Job]:
    """List the jobs of a grid, with work that does nothing."""
    categories = [f"category{index}" for index in range(number // PER_CATEGORY)]
    jobs = grid_jobs(Experiment(data={}), categories, PATCH_SIZES)
    return [replace(job, work=partial(nothing, job.name, "-" not in job.name)) for job in jobs]


def nothing(name: str, is_last: bool, *_: object) -> dict[str, Any]:
    """Return the result of a finished category, or of a training."""
    scales = [*map(str, PATCH_SIZES), "multi-scale"]
    rows = [{"scale": scale, **METRICS} for scale in scales]
    return {"category": name, "rows": rows} if is_last else {"checkpoint": name}


def megabytes() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    auto_cli(ray_scaling, as_positional=False)
