"""Jobs as tasks of Ray: what they need, what becomes of errors and of processes that die."""

import os
from pathlib import Path

import pytest

from anomalib_students.runs.jobs import Job, read_results, run_jobs
from anomalib_students.runs.storage import Storage

pytestmark = pytest.mark.slow


def test_jobs_run_on_a_cluster(nodes, tmp_path):
    from anomalib_students.runs.ray_executor import OnRay
    from anomalib_students.runs.workers import Workers

    begun = tmp_path / "begun"

    def result(storage, compute, on_progress):
        return {"accelerator": compute.accelerator, "done": sorted(read_results(storage))}

    def die_once(storage, compute, on_progress):
        if not begun.exists():
            begun.touch()
            os._exit(1)
        return {"attempt": 2}

    def fail(storage, compute, on_progress):
        raise ValueError("no images")

    def never(storage, compute, on_progress):
        Path(tmp_path / "never").touch()

    storage = Storage(str(tmp_path / "results"))
    jobs = [
        Job("dies", "the one that dies", die_once),
        Job("fails", "the one that fails", fail),
        Job("needy", "the needy", never, needs=("dies", "fails")),
        Job("waits", "the one that waits", result, needs=("dies",), has_workers=True),
    ]
    ended, results = {}, {}
    run_jobs(
        jobs, results, OnRay(storage, Workers(), lambda _: None), lambda job, it: ended.update({job.name: it.reason})
    )
    assert ended == {
        "dies": None,
        "fails": "no images",
        "needy": "it needs the one that fails, which failed",
        "waits": None,
    }
    assert results == {"dies": {"attempt": 2}, "waits": {"accelerator": "cpu", "done": ["dies"]}}
    assert read_results(storage) == results
    assert not (tmp_path / "never").exists()


def test_without_room_nothing_is_started(nodes, tmp_path):
    from anomalib_students.runs.ray_executor import OnRay
    from anomalib_students.runs.workers import Workers

    with pytest.raises(ValueError, match="The cluster lacks 1000 CPU, which 1 worker"):
        OnRay(Storage(str(tmp_path)), Workers(cpus=1000), lambda _: None)
