"""Registration in anomalib, with nothing for the user to import.

anomalib has no plugin hook, but everything in it imports torch, and torch calls the entry points of the group
``torch.backends`` at the end of ``import torch``. Ours is :func:`activate`. By then anomalib's modules or ours can be
half-initialised: a program whose first import is ``anomalib.models`` calls us in the middle of that module, and a
worker that unpickles a model in the middle of ours.

So we wait until no import of anomalib's or ours is under way. At the end of an import, Python binds the submodule in
its package's namespace, and a package can be given a class that sees the binding. If anomalib isn't imported yet, a
finder that finds nothing notices when it is. In a program without anomalib nothing else happens.

With ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` torch calls no entry point. Importing
``anomalib_students.model.lightning_model`` and ``anomalib_students.data`` then registers the classes with
``get_model("uninformed_students")`` and the command line, as it does for any class outside of anomalib, and calling
:func:`activate` does the rest.
"""

from __future__ import annotations

# Every program that uses torch imports this module: only what torch has imported anyway.
import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# By the module of anomalib that must be there first: where our classes are, their names, and where they appear.
_CLASSES = {
    "anomalib.data": ("anomalib_students.data", ("MVTec", "Parts", "SampleParts"), ("anomalib.data",)),
    "anomalib.models": ("anomalib_students", ("UninformedStudents",), ("anomalib.models", "anomalib.models.image")),
}
# The classes to register when the import of a module is complete.
_waiting: dict[str, list[str]] = {}


def activate() -> None:
    """Register the classes as soon as the program imports anomalib.

    This is the entry point in the group ``torch.backends``. Faults in our classes become warnings, because an exception
    would break ``import torch``.
    """
    if "anomalib" in sys.modules:
        for classes in _CLASSES:
            _register(classes, after=classes)
    elif _AnomalibWatch not in sys.meta_path:
        sys.meta_path.insert(0, _AnomalibWatch)


class _AnomalibWatch:
    """A finder that finds nothing, but is asked before anomalib's modules are imported."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:  # the finders' signature
        if name in _CLASSES:
            _register(name, after=name)


class _WatchedPackage(ModuleType):
    """A package that registers the classes waiting for a submodule when the submodule is bound in it."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        submodule = f"{self.__name__}.{name}"
        for classes in _waiting.pop(submodule, ()):
            _register(classes, after=submodule)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        # cloudpickle, and so Ray, knows a plain module by its exact type, which this isn't.
        return importlib.import_module, (self.__name__,)


def _register(classes: str, after: str) -> None:
    """Put our classes in anomalib's modules, after the import of a submodule and all that are under way."""
    try:
        under_way = _import_under_way() if _is_imported(after) else after
        if under_way is not None:
            _waiting.setdefault(under_way, []).append(classes)
            sys.modules[under_way.rpartition(".")[0]].__class__ = _WatchedPackage
            return
        source, names, targets = _CLASSES[classes]
        ours = {name: getattr(importlib.import_module(source), name) for name in names}
        for target in targets:
            namespace = vars(importlib.import_module(target))
            namespace.update(ours)
            # For `from anomalib.models import *`.
            namespace["__all__"] = sorted({*namespace["__all__"], *names})
        # Imported here, as it imports Lightning.
        from anomalib_students.wrappers import wrap_anomalib

        wrap_anomalib()
    except Exception as error:  # noqa: BLE001
        fault = f"{type(error).__name__}: {error}"
        message = f"anomalib-students could not register its classes in anomalib ({fault})"
        warnings.warn(message, RuntimeWarning, stacklevel=1)


def _import_under_way() -> str | None:
    """Return the outermost half-initialised module: ``sys.modules`` lists them in the order of their start."""
    for name, module in list(sys.modules.items()):
        package, *path = name.split(".")
        # Deeper in anomalib there are aliases that are never bound.
        watched = (package == __package__ and path) or (package == "anomalib" and len(path) == 1)
        if watched and isinstance(module, ModuleType) and not _is_imported(name):
            return name
    return None


def _is_imported(name: str) -> bool:
    package, _, submodule = name.rpartition(".")
    return submodule in vars(sys.modules[package])
