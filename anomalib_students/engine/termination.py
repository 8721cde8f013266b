"""Exit status and advice of a training that a scheduler ends by SIGTERM."""

import logging
import signal
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["HowToResume", "Termination"]

logger = logging.getLogger(__name__)

STATUS = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM has ended, as shells report it."""


class HowToResume(Callback):
    """Advice of a command on how to resume its trainings, as a sentence."""

    def __init__(self, advice: str) -> None:
        self.advice = advice


class Termination(Callback):
    """End a process that got SIGTERM with status 143, and log how to resume.

    Lightning ends it with 0 [1]_, and a scheduler would take the training for complete.

    Args:
        resume: How to resume, by default with ``--ckpt_path`` and the last checkpoint. :class:`HowToResume` takes
            precedence.

    References:
        .. [1] ``SIGTERMException`` of Lightning 2.6 is a ``SystemExit`` without a status.
    """

    def __init__(self, resume: str | None = None) -> None:
        self._resume = resume

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Set the exit status, and log how to resume."""
        if isinstance(exception, SIGTERMException):
            exception.code = STATUS
            if trainer.is_global_zero:
                logger.error("Stopped by SIGTERM after %d steps. %s", trainer.global_step, self._advice(trainer))

    def _advice(self, trainer: Trainer) -> str:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, HowToResume):
                return callback.advice
        if self._resume is not None:
            return self._resume
        last = getattr(trainer.checkpoint_callback, "best_model_path", "")
        return f"Resume with --ckpt_path {last}" if last and Path(last).is_file() else "There is no checkpoint yet."
