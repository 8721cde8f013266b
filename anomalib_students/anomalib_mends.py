"""What anomalib 2.7 leaves undone, mended from outside when its modules are imported.

Each mend is for one fault, and goes when anomalib has mended it.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt
from lightning.pytorch import seed_everything

__all__: list[str] = []


def _seed_everything(instantiate: Callable[[], None], command_line: Any, args: tuple, kwargs: dict) -> None:  # noqa: ANN401
    """Seed before models are made: anomalib's command line has the option ``seed_everything``, but does not use it.

    ``true``, its default, stands for a random seed, as ``false`` does for none: both leave the numbers to chance.
    """
    settings = command_line.config[command_line.subcommand]
    seed = settings.get("seed_everything") if settings else None
    if isinstance(seed, int) and not isinstance(seed, bool):
        seed_everything(seed, workers=True)
    instantiate(*args, **kwargs)


@wrapt.when_imported("anomalib.cli.cli")
def _mend_command_line(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, "AnomalibCLI.instantiate_classes", _seed_everything)
