"""What workers reserve, and which of their failures are kept."""

import pytest

pytest.importorskip("ray")

from anomalib_students.runs.storage import Storage
from anomalib_students.runs.workers import Run, Workers


@pytest.mark.parametrize(("gpus", "resources"), [(0, {"CPU": 2}), (0.5, {"CPU": 2, "GPU": 0.5})])
def test_what_a_worker_reserves(gpus, resources):
    assert Workers(cpus=2, gpus=gpus).resources == resources


@pytest.fixture
def run(tmp_path):
    return Run(Storage(str(tmp_path)), "pill-p33")


def test_a_failure_is_remembered_until_the_run_is_tried_again(run):
    assert run.failure() is None
    run.record_failure("no images")
    assert run.failure() == "no images"
    run.record_failure(None)
    assert run.failure() is None


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ValueError("bad data"), "bad data"),
        (FileNotFoundError("no data"), "no data"),
        (RuntimeError("a lost peer"), None),
    ],
)
def test_what_another_attempt_would_find_again_is_kept(run, error, kept):
    with pytest.raises(type(error)), run.recorded():
        raise error
    assert run.failure() == kept
