"""The test after a resumed training, for which anomalib 2.7 loads the checkpoint that it was resumed from."""

import inspect
from collections.abc import Callable
from typing import Any

from anomalib import LearningType

from .patching import wrap

__all__ = ["measure_what_was_trained"]


def measure_what_was_trained() -> None:
    """Let ``Engine.train`` test the model that a resumed training ends with."""
    wrap(
        "anomalib.engine.engine",
        "Engine.train",
        _train,
        otherwise="the test after a resumed training may be one of the checkpoint that it was resumed from",
    )


def _train(train: Callable[..., Any], engine: Any, args: tuple, kwargs: dict) -> Any:  # noqa: ANN401
    settings = inspect.signature(train).bind(*args, **kwargs).arguments
    model = settings["model"]
    # Models of other kinds are not fitted.
    if not settings.get("ckpt_path") or model.learning_type != LearningType.ONE_CLASS:
        return train(*args, **kwargs)
    test_dataloaders = settings.pop("test_dataloaders", None)
    engine.fit(**settings)
    return engine.trainer.test(model, test_dataloaders, datamodule=settings.get("datamodule"))
