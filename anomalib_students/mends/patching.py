"""Patches of other packages' modules: applied when they are imported, with a warning if they no longer fit."""

import warnings
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.metadata import version
from operator import attrgetter
from types import ModuleType
from typing import Any

import wrapt

__all__ = ["Wrapper", "change", "warn_of_change", "wrap"]

Wrapper = Callable[[Callable[..., Any], Any, tuple, dict], Any]
"""Called in place of a function, with the function, the object that it is a method of, and its arguments."""


def wrap(module: str, name: str, wrapper: Wrapper, otherwise: str) -> None:
    """Wrap a function of a module, ``name`` in it, as ``"Class.method"``; see :func:`change`."""
    change(module, name, lambda imported: wrapt.wrap_function_wrapper(imported, name, wrapper), otherwise)


def change(module: str, name: str, apply: Callable[[ModuleType], object], otherwise: str) -> None:
    """Change a module, now or as soon as it is imported, or warn of the consequence if it has no ``name``."""

    def apply_if_there(imported: ModuleType) -> None:
        try:
            attrgetter(name)(imported)
        except AttributeError:
            warn_of_change(module, name, otherwise)
        else:
            apply(imported)

    if _exists(module):
        wrapt.when_imported(module)(apply_if_there)
    else:
        warn_of_change(module, name, otherwise)


def warn_of_change(module: str, name: str, otherwise: str) -> None:
    """Warn that a package has changed what a patch builds on, with the consequence ``otherwise``."""
    package = module.partition(".")[0]
    warnings.warn(
        f"{package} {version(package)} has changed {module}.{name}, which anomalib-students builds on: {otherwise}.",
        RuntimeWarning,
        stacklevel=2,
    )


def _exists(module: str) -> bool:
    """Whether a package has a module, without importing the package; true if the package is not installed."""
    package, *path = module.split(".")
    spec = PathFinder.find_spec(package)
    if spec is None:
        return True
    for name in path:
        package = f"{package}.{name}"
        places = spec.submodule_search_locations
        spec = PathFinder.find_spec(package, places) if places else None
        if spec is None:
            return False
    return True
