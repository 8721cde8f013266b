"""What anomalib 2.7 leaves undone, mended from outside when its modules are imported.

Each mend is for one fault, and goes when anomalib has mended it.
"""

import inspect
import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt
from anomalib import LearningType
from lightning.pytorch import seed_everything

from anomalib_students.files import naming_what_is_damaged
from anomalib_students.user_errors import is_for_users, one_line

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


def _write_checkpoints_whole(ensure: Callable[..., None], engine: Any, args: tuple, kwargs: dict) -> None:  # noqa: ANN401
    """Write checkpoints beside their place: anomalib's can be cut short if the temporary folder is elsewhere."""
    from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO

    from anomalib_students.engine.checkpoint_io import CheckpointIO

    ensure(*args, **kwargs)
    plugins = engine._cache.args.get("plugins")  # noqa: SLF001
    # It is no list if the user's strategy brings its own way of writing.
    if isinstance(plugins, list):
        plugins[:] = [
            CheckpointIO(plugin.extra_safe_globals) if type(plugin) is AnomalibCheckpointIO else plugin
            for plugin in plugins
        ]


def _test_what_was_trained(train: Callable[..., Any], engine: Any, args: tuple, kwargs: dict) -> Any:  # noqa: ANN401
    """Test the model that a resumed training ends with: anomalib tests the checkpoint that it was resumed from."""
    settings = inspect.signature(train).bind(*args, **kwargs).arguments
    model = settings["model"]
    # Models of other kinds are not fitted.
    if not settings.get("ckpt_path") or model.learning_type != LearningType.ONE_CLASS:
        return train(*args, **kwargs)
    test_dataloaders = settings.pop("test_dataloaders", None)
    engine.fit(**settings)
    return engine.trainer.test(model, test_dataloaders, datamodule=settings.get("datamodule"))


def _keep_untrained_results(create: Callable[..., Path], instance: None, args: tuple, kwargs: dict) -> Path:
    """Give results of a test or a prediction before the first training a version of their own.

    anomalib writes them to a folder ``latest``, where the training needs a link.
    """
    del instance
    root = Path(args[0] if args else kwargs["root_dir"])
    latest = root / "latest"
    # On Windows the link is a folder to Python, and anomalib removes what is in its place.
    if os.name == "posix" and latest.is_dir() and not latest.is_symlink():
        latest.rename(next(path for number in count() if not (path := root / f"v{number}").exists()))
    return create(*args, **kwargs)


def _name_damaged_checkpoint(load: Callable[..., Any], model: type, args: tuple, kwargs: dict) -> Any:  # noqa: ANN401
    """Name a checkpoint that is cut short."""
    del model
    with naming_what_is_damaged(args[0] if args else kwargs["checkpoint_path"]):
        return load(*args, **kwargs)


def _say_users_errors_in_one_line(main: Callable[[], None], _: None, args: tuple, kwargs: dict) -> None:
    """End the command with what the user can mend, which anomalib says below a hundred lines of traceback."""
    try:
        main(*args, **kwargs)
    except Exception as error:
        if not is_for_users(error):
            raise
        sys.exit(one_line("anomalib", error))


@wrapt.when_imported("anomalib.cli.cli")
def _mend_command_line(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, "main", _say_users_errors_in_one_line)
    wrapt.wrap_function_wrapper(module, "AnomalibCLI.instantiate_classes", _seed_everything)


@wrapt.when_imported("anomalib.engine.engine")
def _mend_engine(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, "Engine._ensure_checkpoint_io_plugin", _write_checkpoints_whole)
    wrapt.wrap_function_wrapper(module, "Engine.train", _test_what_was_trained)
    wrapt.wrap_function_wrapper(module, "create_versioned_dir", _keep_untrained_results)


@wrapt.when_imported("anomalib.models.components.base.anomalib_module")
def _mend_module(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, "AnomalibModule.load_from_checkpoint", _name_damaged_checkpoint)
