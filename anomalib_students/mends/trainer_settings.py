"""Arguments of a trainer that the user leaves open, for the model to choose.

anomalib 2.7 has ``trainer_arguments`` of a model for that, but they override the user's, and Lightning's trainer does
not know which of its arguments the user has given.
"""

from collections.abc import Callable
from typing import Any

from .patching import warn_of_change, wrap

__all__ = ["let_models_choose"]

MODULE = "anomalib.engine.engine"
OTHERWISE = (
    "what the user leaves open of a training, its length, precision, validations and checkpoints, is chosen by "
    "anomalib and not by the model"
)


def let_models_choose() -> None:
    """Let the engine call a model's ``complete_trainer_settings``, if it has one, with the arguments of its trainer."""
    wrap(MODULE, "Engine._setup_trainer", _complete, OTHERWISE)


def _complete(setup: Callable[..., None], engine: Any, args: tuple, kwargs: dict) -> None:  # noqa: ANN401
    model = args[0] if args else kwargs["model"]
    if hasattr(model, "complete_trainer_settings"):
        settings = getattr(getattr(engine, "_cache", None), "args", None)
        if settings is None:
            warn_of_change(MODULE, "Engine._cache", OTHERWISE)
        else:
            model.complete_trainer_settings(settings)
    setup(*args, **kwargs)
