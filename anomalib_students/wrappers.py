"""The two functions of anomalib that this package wraps, for what no hook of a model, callback or data module can do.

Each passes everything through untouched, unless our model is the one that runs:

- ``Engine._setup_trainer`` knows which arguments of the trainer the user has named. A trainer does not
  distinguish 1000 epochs from no number of epochs, nor 32 bits from no precision.
- ``AnomalibCLI.instantiate_classes`` makes the model. The command line of anomalib 2.7 has the option
  ``seed_everything``, but does not use it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from types import ModuleType
from typing import Any

import wrapt
from lightning.pytorch import seed_everything

MODEL = "UninformedStudents"


@cache
def wrap_anomalib() -> None:
    """Wrap the functions, now or as soon as anomalib imports them; where anomalib has changed, nothing happens."""
    for module, name, wrapper in (
        ("anomalib.engine.engine", "Engine._setup_trainer", _note_named_arguments),
        ("anomalib.cli.cli", "AnomalibCLI.instantiate_classes", _seed),
    ):
        wrapt.when_imported(module)(partial(_wrap, name, wrapper))


def _wrap(name: str, wrapper: Callable[..., None], module: ModuleType) -> None:
    with suppress(AttributeError):
        wrapt.wrap_function_wrapper(module, name, wrapper)


def _note_named_arguments(setup: Callable[..., None], engine: Any, args: tuple, kwargs: dict) -> None:  # noqa: ANN401
    """Let our model know which arguments of the trainer have a value."""
    model = args[0] if args else kwargs["model"]
    if hasattr(model, "named_by_user"):
        settings = getattr(getattr(engine, "_cache", None), "args", {})
        model.named_by_user = frozenset(name for name, value in settings.items() if value is not None)
    setup(*args, **kwargs)


def _seed(instantiate: Callable[[], None], command_line: Any, args: tuple, kwargs: dict) -> None:  # noqa: ANN401
    """Seed all random numbers before our model is made. ``true``, the default, and ``false`` leave it to chance."""
    settings = command_line.config.get(command_line.subcommand) or {}
    seed = settings.get("seed_everything")
    is_ours = str(getattr(settings.get("model"), "class_path", "")).rpartition(".")[2] == MODEL
    if is_ours and isinstance(seed, int) and not isinstance(seed, bool):
        seed_everything(seed, workers=True)
    instantiate(*args, **kwargs)
