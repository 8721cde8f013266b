"""How modules of others are changed: when they are imported, and not unnoticed where they have changed themselves."""

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
"""What is called in place of a function, with it, the object that it is a method of, and its arguments."""


def wrap(module: str, name: str, wrapper: Wrapper, otherwise: str) -> None:
    """Wrap a function of a module.

    Args:
        module: Name of the module.
        name: Name of the function in it, as ``"Class.method"``.
        wrapper: What is called in its place.
        otherwise: What is to be expected without it, for the warning.
    """
    change(module, name, lambda imported: wrapt.wrap_function_wrapper(imported, name, wrapper), otherwise)


def change(module: str, name: str, apply: Callable[[ModuleType], object], otherwise: str) -> None:
    """Change a module: now, or as soon as it is imported. Warn if what is to be changed is not there.

    Args:
        module: Name of the module.
        name: What there must be in it.
        apply: Changes the module.
        otherwise: What is to be expected without the change, for the warning.
    """

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
    """Warn that a package has changed what a mend builds on.

    Args:
        module: Name of a module of the package.
        name: What has changed in it.
        otherwise: What is to be expected without the mend.
    """
    package = module.partition(".")[0]
    warnings.warn(
        f"{package} {version(package)} has changed {module}.{name}, which anomalib-students builds on: {otherwise}.",
        RuntimeWarning,
        stacklevel=2,
    )


def _exists(module: str) -> bool:
    """Whether a package has a module, found without importing the package; true if the package is not installed."""
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
