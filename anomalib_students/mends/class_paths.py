"""Paths by which configurations name our models: anomalib's, as ``anomalib.models.UninformedStudents``.

Command lines write the shortest path that starts in the package that defines a class, and the function ``get_model`` of
anomalib takes no model from outside of anomalib. Here our models get the paths that anomalib's own have, and
``get_model`` takes the others too, which configuration files may have. Data modules need none of it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jsonargparse._typehints as command_line
import wrapt

__all__ = ["allow_our_paths", "name_as_anomalib"]

_paths: dict[type, str] = {}
"""Path of each class that has one in anomalib."""


def name_as_anomalib(classes: Mapping[str, type], target: str) -> None:
    """Have configurations that command lines write name classes by a module of anomalib.

    Args:
        classes: Classes by their names.
        target: Module of anomalib in which they are.
    """
    _paths.update({value: f"{target}.{name}" for name, value in classes.items()})
    function = getattr(command_line, "get_import_path", None)
    # No interface of jsonargparse: without it, configurations have our paths, which are valid too.
    if function is not None and not isinstance(function, wrapt.FunctionWrapper):
        wrapt.wrap_function_wrapper(command_line, "get_import_path", _path_in_anomalib)


def allow_our_paths(models: ModuleType) -> None:
    """Have anomalib's ``get_model`` take the path of a model in our package.

    Args:
        models: The module ``anomalib.models``.
    """
    allowed: set[str] = getattr(models, "ALLOWED_MODULES", set())
    allowed.add(__name__.partition(".")[0])


def _path_in_anomalib(
    get_import_path: Callable[[Any], str | None], _: object, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str | None:
    """Look for a class among ours."""
    value = args[0] if args else kwargs["value"]
    if isinstance(value, type) and value in _paths:
        return _paths[value]
    return get_import_path(*args, **kwargs)
