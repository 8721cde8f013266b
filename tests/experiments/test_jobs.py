"""The order of jobs, what becomes of failures, and that nothing is done twice."""

import json
from functools import partial

import pytest

from anomalib_students.experiments.jobs import Compute, InThisProcess, Job, open_folder, read_result, run_job, run_jobs


class Killed(BaseException):
    """What no code handles."""


@pytest.fixture
def done():
    """Names of the jobs that were worked on, in their order."""
    return []


@pytest.fixture
def job(done):
    def job(name, needs=(), error=None):
        def work(folder, compute, tell):
            done.append(name)
            tell(0.5)
            if error:
                raise error
            return {"value": name}

        return Job(name, f"the {name}", work, needs)

    return job


@pytest.fixture
def run(tmp_path):
    def run(jobs, ended=lambda job, reason: None):
        return run_jobs(jobs, tmp_path, InThisProcess(tmp_path, Compute(), lambda _: None), ended)

    return run


def test_each_result_is_there_as_soon_as_its_job_has_ended(job, run, tmp_path):
    seen = []
    failures = run([job("a"), job("b")], lambda job, reason: seen.append(read_result(tmp_path, job.name)))
    assert not failures
    assert seen == [{"value": "a"}, {"value": "b"}]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_job_needs_is_done_before(job, run, done):
    run([job("last", needs=("a", "b")), job("a"), job("b")])
    assert done == ["a", "b", "last"]


def test_a_failure_stops_only_what_needs_it(job, run, done):
    jobs = [job("bad", error=OSError("no\nimages")), job("needy", ("bad",)), job("needier", ("needy",)), job("good")]
    ended = {}
    failures = run(jobs, lambda job, reason: ended.update({job.label: reason}))
    assert failures == {
        "the bad": "no images",
        "the needy": "it needs the bad, which failed",
        "the needier": "it needs the needy, which failed",
    }
    assert ended == {**failures, "the good": None}
    assert done == ["bad", "good"]


def test_what_is_done_is_not_done_again(job, run, done, tmp_path):
    with pytest.raises(Killed):
        run([job("a"), job("b", error=Killed()), job("c", ("a", "b"))])
    written = (tmp_path / "a" / "result.json").stat().st_mtime_ns
    assert read_result(tmp_path, "b") is None
    done.clear()
    assert run([job("a"), job("b"), job("c", ("a", "b"))]) == {}
    assert done == ["b", "c"]
    assert (tmp_path / "a" / "result.json").stat().st_mtime_ns == written


def test_an_error_of_another_process_is_told_by_its_end(job, tmp_path):
    told = "Caught OSError in worker 0.\nOriginal Traceback (most recent call last):\n  File x\nOSError: no image\n"
    assert run_job(job("a", error=RuntimeError(told)), tmp_path, Compute(), print) == "OSError: no image"
    assert run_job(job("b", error=KeyError()), tmp_path, Compute(), print) == "KeyError"


class TestSettings:
    open = staticmethod(partial(open_folder, settings={"lr": 0.1, "limit": None}))

    def test_an_experiment_is_begun_once(self, tmp_path):
        self.open(tmp_path / "a", resume=True)
        with pytest.raises(FileExistsError, match="go on with it by --resume true, or choose another --name"):
            self.open(tmp_path / "a", resume=False)
        assert json.loads((tmp_path / "a" / "settings.json").read_text()) == {"lr": 0.1, "limit": None}

    def test_it_goes_on_with_its_settings_alone(self, tmp_path):
        self.open(tmp_path, resume=False)
        self.open(tmp_path, resume=True)
        with pytest.raises(ValueError, match=r"had other settings: lr=0.1\. Resume it with these"):
            open_folder(tmp_path, {"lr": 0.2, "limit": None}, resume=True)

    def test_one_that_began_before_architectures_could_be_chosen_goes_on_with_the_papers(self, tmp_path):
        self.open(tmp_path, resume=False)
        open_folder(tmp_path, {"lr": 0.1, "limit": None, "architecture": "paper"}, resume=True)
        with pytest.raises(ValueError, match=r"had other settings: architecture=paper\."):
            open_folder(tmp_path, {"lr": 0.1, "limit": None, "architecture": "light"}, resume=True)
