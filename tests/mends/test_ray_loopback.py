"""A local cluster that other machines don't reach; tests/reliability/test_network.py has how it is used."""

import pytest

pytest.importorskip("ray")

from ray._private import services

from anomalib_students.mends.ray_loopback import reached_from_here_only


def test_the_address_of_the_loopback_is_kept_for_a_while(monkeypatch, recwarn):
    monkeypatch.setattr(services, "get_node_ip_address", lambda *_: "192.0.2.7")
    with reached_from_here_only() as arguments:
        assert services.resolve_ip_for_localhost(arguments["_node_ip_address"]) == "127.0.0.1"
    assert services.resolve_ip_for_localhost("127.0.0.1") == "192.0.2.7"
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_a_ray_that_has_changed_is_warned_of(monkeypatch):
    monkeypatch.delattr(services, "resolve_ip_for_localhost")
    warned = pytest.warns(RuntimeWarning, match=r"ray [\d.]+ has changed .*: other machines may reach")
    with warned, reached_from_here_only():
        pass
    assert not hasattr(services, "resolve_ip_for_localhost")
