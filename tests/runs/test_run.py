"""The report of jobs: it grows with them, without being written all the time."""

import pytest

from anomalib_students.runs import run as run_module
from anomalib_students.runs.jobs import Compute, InThisProcess, Job
from anomalib_students.runs.run import run_and_report
from anomalib_students.runs.storage import Storage

REPORT_SECONDS = 1.0


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    clock = [0.0]
    monkeypatch.setattr(run_module, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@pytest.fixture
def run(storage, clock):
    """Run jobs; return what went wrong, and the names of the results and the failures in each report."""

    def run(jobs):
        reports = []

        def files(results, failures):
            clock[0] += REPORT_SECONDS
            reports.append((sorted(results), dict(failures)))
            return {"results.md": f"{len(results)} done".encode()}

        return run_and_report(
            storage, jobs, lambda _, on_progress: InThisProcess(storage, Compute(), on_progress), files
        ), reports

    return run


@pytest.fixture
def job(clock):
    def job(name, needs=(), seconds=0.0, error=None, reports=False):
        def work(storage, compute, on_progress):
            clock[0] += seconds
            if reports:
                on_progress(0.5)
            if error:
                raise error
            return {}

        return Job(name, f"the {name}", work, needs)

    return job


def test_the_last_report_has_all(job, run, storage, capfd):
    failures, reports = run([job("a"), job("b", error=ValueError("no images")), job("c", needs=("b",))])
    assert failures == {"the b": "no images", "the c": "it needs the b, which failed"}
    assert reports[0] == ([], {})
    assert reports[-1] == (["a"], failures)
    assert (storage.folder / "results.md").read_text() == "1 done"
    # What failed by itself is reported at once.
    assert [line for line in capfd.readouterr().err.splitlines() if "failed" in line] == ["the b failed: no images"]


def test_short_jobs_do_not_wait_for_reports(job, run):
    _, reports = run([job(f"job{number}") for number in range(100)])
    # The first and the last.
    assert [len(results) for results, _ in reports] == [0, 100]


def test_a_report_follows_each_long_job(job, run):
    _, reports = run([job(name, seconds=11 * REPORT_SECONDS) for name in "abc"])
    assert [results for results, _ in reports] == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_report_is_made_up_for_while_a_long_job_goes_on(job, run):
    _, reports = run([job("short"), job("long", seconds=11 * REPORT_SECONDS, reports=True)])
    assert [results for results, _ in reports] == [[], ["short"], ["long", "short"]]


def test_what_is_done_is_in_the_report_whatever_is_selected(job, run):
    run([job("a")])
    _, reports = run([job("b")])
    assert reports[0][0] == ["a"]
    assert reports[-1][0] == ["a", "b"]
