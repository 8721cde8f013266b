"""Nothing is sent to hosts that the user has not named."""

import os

import pytest
from jsonargparse import Namespace


@pytest.mark.parametrize(
    ("address", "job", "where", "reported"),
    [(None, "", "local", "0"), (None, "1", "auto", None), ("192.0.2.1:6379", "", "192.0.2.1:6379", None)],
)
def test_a_cluster_of_this_machine_reports_nothing(address, job, where, reported, monkeypatch):
    """Its usage statistics are off; those of other clusters are their own affair."""
    ray = pytest.importorskip("ray")
    from anomalib_students.cluster.workers import connect

    # What connecting leaves in the environment.
    monkeypatch.setattr(os, "environ", {"RAY_JOB_ID": job} if job else {})
    calls = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    settings = Namespace(address=address, workers=1, cpus_per_worker=1, gpus_per_worker=None)
    connect(settings)
    assert calls[0]["address"] == where
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == reported
    assert (settings.gpus_per_worker, settings.accelerator) == (1, "gpu")
