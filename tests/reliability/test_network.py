"""Nothing is sent to hosts that the user has not named."""

import os

import pytest


def init_arguments(address, monkeypatch):
    """Connect to a cluster; return the arguments of Ray, and by what it replaces the loopback's address."""
    ray = pytest.importorskip("ray")
    from ray._private import services

    from anomalib_students.runs.connection import connect

    # What connecting leaves in the environment.
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_JOB_ID": ""})
    monkeypatch.delitem(os.environ, "RAY_JOB_ID")
    calls = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(
        ray, "init", lambda **arguments: calls.append((arguments, services.resolve_ip_for_localhost("127.0.0.1")))
    )
    connect(address)
    return calls.pop()


def test_a_local_cluster_listens_on_the_loopback_alone(monkeypatch):
    """Ray's processes listen on all interfaces unless the address of their node is the loopback's."""
    from ray._private import services

    monkeypatch.setattr(services, "get_node_ip_address", lambda *_: "192.0.2.7")
    arguments, address = init_arguments(None, monkeypatch)
    assert (arguments["_node_ip_address"], address) == ("127.0.0.1", "127.0.0.1")
    assert services.resolve_ip_for_localhost("127.0.0.1") == "192.0.2.7"


def test_other_machines_reach_a_cluster_of_several(monkeypatch):
    arguments, _ = init_arguments("192.0.2.1:6379", monkeypatch)
    assert arguments["address"] == "192.0.2.1:6379"
    assert "_node_ip_address" not in arguments
