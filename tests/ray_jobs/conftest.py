"""A cluster of two nodes, and jobs on it: in this process, or to be killed in one of their own."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jsonargparse import Namespace

pytest.importorskip("ray")

JOBS = Path(__file__).parents[2] / "ray_jobs"
SMALL_IMAGES = """
  pre_processor:
    class_path: anomalib.pre_processing.PreProcessor
    init_args:
      transform:
        class_path: torchvision.transforms.v2.Resize
        init_args: {size: [48, 48], antialias: true}
"""
"""Argument of the model in settings: a pre-processor that keeps the jobs short."""


@pytest.fixture(scope="package")
def nodes():
    """A cluster of two nodes with a core each, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    from anomalib_students.cluster.workers import connect

    # Ray finds the workers' places of a job that was killed, to free them, by the dashboard's server.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True})
    cluster.add_node(num_cpus=1)
    # Once for all jobs of this process: Tune does not outlive the connection that it began with.
    connect(Namespace(address=cluster.address, workers=1, cpus_per_worker=1, gpus_per_worker=0))
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(nodes):
    """Address of the cluster."""
    return nodes.address


@pytest.fixture
def start_job(tmp_path):
    """Start a job in a folder of its own and a session of its own, so that all of it can be killed."""

    def start_job(name, *options):
        return subprocess.Popen(
            [sys.executable, JOBS / name, *options],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ.copy(),
            start_new_session=True,
        )

    return start_job


@pytest.fixture
def run_job(cluster, capfd):
    """Run a job on the cluster from this process, and return what it has printed.

    This process has imported already what takes seconds.
    """

    def run_job(name, *options, code=0):
        status = runpy.run_path(str(JOBS / name))["main"](list(options))
        captured = capfd.readouterr()
        output = captured.out + captured.err
        assert status == code, output[-5000:]
        return output

    return run_job


def finish(process):
    """Wait for the good end of a job, and return what it has printed."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-5000:]
    return output


def kill(process):
    """Kill a job, and all that it has started but what belongs to the cluster."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(process, condition):
    """Wait until a condition holds while a job runs."""
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0][-5000:]
        assert time.monotonic() < end
        time.sleep(0.05)
