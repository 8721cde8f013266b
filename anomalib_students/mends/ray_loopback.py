"""Interfaces that a Ray cluster on one machine listens on.

Ray 2.60 listens on about ten ports of all interfaces unless its node's address is the loopback address, which it
replaces by another, as only clusters of several machines need.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray._private import services

from .patching import warn_of_change

__all__ = ["reached_from_here_only"]

LOOPBACK = "127.0.0.1"
NAME = "resolve_ip_for_localhost"


@contextmanager
def reached_from_here_only() -> Iterator[dict[str, Any]]:
    """Let a local cluster listen on the loopback interface; yields arguments of ``ray.init``, to be called within."""
    if not hasattr(services, NAME):
        warn_of_change(services.__name__, NAME, otherwise="other machines may reach the ports of the local cluster")
    with patch.object(services, NAME, lambda host: host, create=True):
        yield {"_node_ip_address": LOOPBACK}
