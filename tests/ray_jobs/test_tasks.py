"""Tasks of Ray: how many at once, what becomes of errors and of processes that die; and the tables of results."""

import json
import os

import pytest
from jsonargparse import Namespace

pytestmark = pytest.mark.slow


def test_tasks_run_while_there_is_room_and_failures_are_passed_on(nodes, tmp_path):
    import ray

    from anomalib_students.cluster.workers import run_tasks

    begun = tmp_path / "begun"

    @ray.remote(num_cpus=0.1)
    def die_once():
        if not begun.exists():
            begun.touch()
            os._exit(1)
        return 2

    @ray.remote(num_cpus=0.1)
    def fail():
        raise ValueError("no images\nin the folder")

    @ray.remote(num_cpus=0.1)
    def add(*numbers):
        return sum(numbers)

    n_submitted = []

    def submit():
        one = die_once.remote()
        yield "dies", one, True
        n_submitted.append(1)
        other = fail.remote()
        yield "fails", other, False
        yield "needs both", add.remote(one, other), False
        yield "needs one", add.remote(one, 1), True

    settings = Namespace(workers=1, resources={"CPU": 2})
    tasks = run_tasks(submit(), 4, settings)
    ends = [next(tasks)]
    # There is room for one group of workers with two cores each.
    assert not n_submitted
    ends += tasks
    assert {name: (result, reason) for name, result, reason in ends} == {
        "dies": (2, None),
        "fails": (None, "no images in the folder"),
        "needs both": (None, "no images in the folder"),
        "needs one": (3, None),
    }


def test_without_room_nothing_is_started(nodes):
    from anomalib_students.cluster.workers import connect

    settings = Namespace(address=None, workers=1, cpus_per_worker=1000, gpus_per_worker=None)
    with pytest.raises(ValueError, match=r"no room for 1 worker\(s\) with 1000 CPU and 0 GPU each"):
        connect(settings)
    assert settings.gpus_per_worker == 0


def test_the_tables_have_means_of_several_categories_and_the_failures():
    from anomalib_students.cluster.train import results_files

    metrics = {"image_AUROC": 0.5, "pixel_AUROC": 0.75, "pixel_AUPRO": None}
    results = [
        {"category": name, "rows": [{"scale": "p = 33", **metrics, "pixel_AUPRO": value}]}
        for name, value in {"pill": 0.5, "screw": 0.75}.items()
    ]
    files = results_files(results, {"tile": "there is no folder"})
    assert [row["pixel_AUPRO"] for row in json.loads(files["results.json"])] == [0.5, 0.75]
    assert files["results.csv"].decode().splitlines()[1] == "pill,p = 33,0.5,0.75,0.5"
    text = files["results.md"].decode()
    assert "| mean       | p = 33  |         0.500 |         0.750 |         0.625 |" in text
    assert text.endswith("- tile failed: there is no folder\n")
    assert "mean" not in results_files(results[:1], {})["results.md"].decode()
    assert results_files([], {})["results.md"]
