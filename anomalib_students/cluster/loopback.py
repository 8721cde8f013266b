"""A cluster of Ray on this machine alone, which no other machine can reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray._private import services

__all__ = ["LOOPBACK", "reached_from_here_only"]

LOOPBACK = "127.0.0.1"


@contextmanager
def reached_from_here_only() -> Iterator[dict[str, Any]]:
    """Have a local cluster listen on the loopback interface.

    Ray 2.60 listens on about ten ports of all interfaces unless its node's address is the loopback's, which it replaces
    by another, as only several machines need.

    Yields:
        Arguments of ``ray.init``, which is to be called within.
    """
    with patch.object(services, "resolve_ip_for_localhost", lambda host: host, create=True):
        yield {"_node_ip_address": LOOPBACK}
