"""Names of the option ``compression_type``.

The command line of anomalib 2.7 accepts only the members' names, as ``INT8_PTQ``, not their values, as ``int8_ptq``.
"""

from types import ModuleType

from jsonargparse.typing import register_type

from .patching import change

__all__ = ["take_lower_case"]


def take_lower_case() -> None:
    """Let the command line accept the values too."""
    change(
        "anomalib.deploy",
        "CompressionType",
        _register,
        otherwise="--compression_type may take names in capitals alone",
    )


def _register(deploy: ModuleType) -> None:
    kind = deploy.CompressionType
    register_type(
        kind,
        serializer=lambda member: member.name,
        deserializer=lambda name: kind(str(name).lower()),
        # An import must not fail if another program has registered it.
        fail_already_registered=False,
    )
