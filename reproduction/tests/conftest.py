"""Fixtures of the package's tests."""

from tests.conftest import _seeded, mnist_root  # noqa: F401
