"""The option ``seed_everything``, which the command line of anomalib 2.7 has but does not use."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import seed_everything

from .patching import wrap

__all__ = ["seed_before_models"]


def seed_before_models() -> None:
    """Let the command line seed all random numbers before it creates the model.

    ``true``, the default, stands for a random seed, and ``false`` for none: both leave it to chance.
    """
    wrap(
        "anomalib.cli.cli",
        "AnomalibCLI.instantiate_classes",
        _seed,
        otherwise="the option seed_everything may have no effect",
    )


def _seed(instantiate: Callable[[], None], command_line: Any, args: tuple, kwargs: dict) -> None:  # noqa: ANN401
    settings = command_line.config[command_line.subcommand]
    seed = settings.get("seed_everything") if settings else None
    if isinstance(seed, int) and not isinstance(seed, bool):
        seed_everything(seed, workers=True)
    instantiate(*args, **kwargs)
