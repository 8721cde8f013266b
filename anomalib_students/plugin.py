"""Registration in anomalib, with nothing for the user to import.

anomalib has no plugin hook, but everything in it imports torch, and torch calls the entry points of the group
``torch.backends`` at the end of ``import torch``. Ours is :func:`activate`. The difficulty is *when* to import our
classes, because either side can be half-initialised by then:

- a program whose first import is ``anomalib.models`` imports torch, and so calls us, in the middle of that module;
- a worker that unpickles a model imports ``anomalib_students.model.lightning_model`` first, and anomalib, and so calls
  us, in the middle of ours.

So we wait until no import of anomalib's or ours is under way. Python marks the end of an import: it binds a submodule
in its package's namespace after having loaded it [1]_, and a package can be given a class that sees the binding [2]_.
Our classes are imported, and put in anomalib's modules, when ``anomalib.models`` (``anomalib.data``) is bound in
``anomalib``, or, if that happens within another import of anomalib's or ours, when that is bound in its package. If
anomalib isn't imported yet, a finder that finds nothing notices when it is [3]_. In a program without anomalib nothing
else happens.

With ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` torch calls no entry point. Importing
``anomalib_students.model.lightning_model`` and ``anomalib_students.data`` then registers the classes with
``get_model("uninformed_students")`` and the command line, as it does for any class outside of anomalib, and calling
:func:`activate` does the rest.

.. [1] https://docs.python.org/3/reference/import.html#submodules
.. [2] https://docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access
.. [3] https://docs.python.org/3/reference/import.html#the-meta-path
"""

from __future__ import annotations

# Every program that uses torch imports this module: only what torch has imported anyway.
import importlib
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Classes(NamedTuple):
    """Our classes, and the modules of anomalib in which they appear."""

    source: str
    names: tuple[str, ...]
    targets: tuple[str, ...]


# By the module of anomalib that must be there first.
_CLASSES = {
    "anomalib.data": _Classes(
        source="anomalib_students.data",
        names=("MVTec", "Parts", "SampleParts"),
        targets=("anomalib.data",),
    ),
    "anomalib.models": _Classes(
        source="anomalib_students",
        names=("UninformedStudents",),
        targets=("anomalib.models", "anomalib.models.image"),
    ),
}

# What to call when the import of a module is complete.
_waiting: dict[str, list[Callable[[], None]]] = {}


def activate() -> None:
    """Register the classes as soon as the program imports anomalib.

    This is the entry point in the group ``torch.backends``. Faults in it or in our classes become warnings, because an
    exception would break ``import torch``.
    """
    with _faults_as_warnings():
        if "anomalib" in sys.modules:
            for name, classes in _CLASSES.items():
                _when_imported(name, partial(_register, classes))
        elif _AnomalibWatch not in sys.meta_path:
            sys.meta_path.insert(0, _AnomalibWatch)


class _AnomalibWatch:
    """A finder that finds nothing, but is asked before anomalib's modules are imported."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:  # the finders' signature
        if name in _CLASSES:
            with _faults_as_warnings():
                _when_imported(name, partial(_register, _CLASSES[name]))


def _register(classes: _Classes) -> None:
    """Import our classes and put them in anomalib's modules, once nothing of either is half-initialised."""
    with _faults_as_warnings():
        under_way = _import_under_way()
        if under_way is not None:
            _when_imported(under_way, partial(_register, classes))
            return
        source = importlib.import_module(classes.source)
        ours = {name: getattr(source, name) for name in classes.names}
        for target in map(importlib.import_module, classes.targets):
            namespace = vars(target)
            namespace.update(ours)
            # For `from anomalib.models import *`.
            namespace["__all__"] = sorted({*namespace["__all__"], *classes.names})
        # Imported here, as it imports Lightning.
        from anomalib_students.wrappers import wrap_anomalib

        wrap_anomalib()


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


def _when_imported(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` when the import of the submodule ``name`` is complete, or at once if it is."""
    if _is_imported(name):
        action()
        return
    _waiting.setdefault(name, []).append(action)
    sys.modules[name.rpartition(".")[0]].__class__ = _WatchedPackage


class _WatchedPackage(ModuleType):
    """A package that runs the actions waiting for a submodule when the submodule is bound in it."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        for action in _waiting.pop(f"{self.__name__}.{name}", ()):
            action()

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        # cloudpickle, and so Ray, knows a plain module by its exact type, which this isn't.
        return importlib.import_module, (self.__name__,)


@contextmanager
def _faults_as_warnings() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001
        warnings.warn(
            f"anomalib-students could not register its classes in anomalib ({type(error).__name__}: {error})",
            RuntimeWarning,
            stacklevel=1,
        )
