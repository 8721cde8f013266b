"""Fixtures of the package's tests."""

from tests.conftest import (  # noqa: F401
    _seeded,
    mnist_root,
    narrow_architectures,
    narrow_networks,
    photographs,
    real_data,
    resnet18_checkpoint,
)
