"""Paths by which configurations name our models: anomalib's, as ``anomalib.models.UninformedStudents``.

Command lines write the shortest path that starts in the package that defines a class, and the function ``get_model`` of
anomalib 2.7 accepts no model from outside of anomalib. Here our models get the paths that anomalib's own have, and
``get_model`` also accepts the paths in our package, which configuration files may have. Data modules do not need this.
"""

import sys
from collections.abc import Callable
from typing import Any

from .patching import change, wrap

__all__ = ["name_models_as_anomalib"]

PACKAGE = __name__.partition(".")[0]
MODELS = "anomalib.models"


def name_models_as_anomalib() -> None:
    """Let command lines name our models by anomalib's module, and ``get_model`` accept the path in our package too."""
    # No interface of jsonargparse.
    wrap(
        "jsonargparse._typehints",
        "get_import_path",
        _path_in_anomalib,
        otherwise=f"configurations name our models {PACKAGE}.<name>, which means the same",
    )
    change(
        MODELS,
        "ALLOWED_MODULES",
        lambda models: models.ALLOWED_MODULES.add(PACKAGE),
        otherwise=f"its get_model may take no path that begins with {PACKAGE}",
    )


def _path_in_anomalib(get_import_path: Callable[[Any], str | None], _: object, args: tuple, kwargs: dict) -> str | None:
    """Find the path of one of our classes in anomalib, where the plugin has registered it."""
    value = args[0] if args else kwargs["value"]
    if isinstance(value, type) and value.__module__.startswith(f"{PACKAGE}."):
        name = value.__name__
        if getattr(sys.modules.get(MODELS), name, None) is value:
            return f"{MODELS}.{name}"
    return get_import_path(*args, **kwargs)
