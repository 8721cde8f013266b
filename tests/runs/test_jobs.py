"""The order of jobs, what becomes of failures, and that nothing is done twice."""

import pytest

from anomalib_students.runs.jobs import Compute, InThisProcess, Job, read_results, run_job, run_jobs
from anomalib_students.runs.storage import Storage


class Killed(BaseException):
    """What no code handles."""


@pytest.fixture
def done():
    """Names of the jobs that were worked on, in their order."""
    return []


@pytest.fixture
def job(done):
    def job(name, needs=(), error=None):
        def work(storage, compute, on_progress):
            done.append(name)
            on_progress(0.5)
            if error:
                raise error
            return {"value": name}

        return Job(name, f"the {name}", work, needs)

    return job


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@pytest.fixture
def run(storage):
    """Run jobs, and return what went wrong by label."""

    def run(jobs, ended=lambda job, outcome: None):
        failures = {}

        def all_ended(job, outcome):
            failures[job.label] = outcome.reason
            ended(job, outcome)

        executor = InThisProcess(storage, Compute(), lambda _: None)
        run_jobs(jobs, read_results(storage), executor, all_ended)
        return {label: reason for label, reason in failures.items() if reason is not None}

    return run


def test_each_result_is_there_as_soon_as_its_job_has_ended(job, run, storage, tmp_path):
    seen = []
    failures = run([job("a"), job("b")], lambda job, outcome: seen.append((read_results(storage), outcome.result)))
    assert not failures
    a, b = {"value": "a"}, {"value": "b"}
    assert seen == [({"a": a}, a), ({"a": a, "b": b}, b)]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_job_needs_is_done_before(job, run, done):
    run([job("last", needs=("a", "b")), job("a"), job("b")])
    assert done == ["a", "b", "last"]


def test_what_is_ready_is_done_in_the_order_of_the_jobs(job, run, done):
    """So that one category is finished before the next one begins."""
    run([job("a"), job("b"), job("ab", needs=("a", "b")), job("c"), job("d"), job("cd", needs=("c", "d"))])
    assert done == ["a", "b", "ab", "c", "d", "cd"]


def test_a_job_that_needs_two_that_fail_fails_once(job, run, done):
    ended = []
    bad = [job(name, error=ValueError(name)) for name in "ab"]
    failures = run([*bad, job("c", needs=("a", "b"))], lambda job, _: ended.append(job.name))
    assert failures == {"the a": "a", "the b": "b", "the c": "it needs the a, which failed"}
    assert ended == ["a", "c", "b"]


def test_a_failure_stops_only_what_needs_it(job, run, done):
    jobs = [job("bad", error=OSError("no\nimages")), job("needy", ("bad",)), job("needier", ("needy",)), job("good")]
    ended = {}
    failures = run(jobs, lambda job, outcome: ended.update({job.label: outcome.reason}))
    assert failures == {
        "the bad": "no images",
        "the needy": "it needs the bad, which failed",
        "the needier": "it needs the needy, which failed",
    }
    assert ended == {**failures, "the good": None}
    assert done == ["bad", "good"]


def test_what_is_done_is_not_done_again(job, run, done, storage, tmp_path):
    with pytest.raises(Killed):
        run([job("a"), job("b", error=Killed()), job("c", ("a", "b"))])
    written = (tmp_path / "a" / "result.json").stat().st_mtime_ns
    assert read_results(storage) == {"a": {"value": "a"}}
    done.clear()
    assert run([job("a"), job("b"), job("c", ("a", "b"))]) == {}
    assert done == ["b", "c"]
    assert (tmp_path / "a" / "result.json").stat().st_mtime_ns == written


def test_an_error_of_another_process_is_told_by_its_end(job, storage):
    said = "Caught OSError in worker 0.\nOriginal Traceback (most recent call last):\n  File x\nOSError: no image\n"
    assert run_job(job("a", error=RuntimeError(said)), storage, Compute(), print).reason == "OSError: no image"
    assert run_job(job("b", error=KeyError()), storage, Compute(), print).reason == "KeyError"
