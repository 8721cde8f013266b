"""What all trainings of this package have in common, of models and of teachers: checkpoints, SIGTERM, bfloat16."""

import io
import logging
import os
import signal
from collections.abc import Mapping
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from .files import naming_what_is_damaged, replace_file

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 1e-5
STATUS = 128 + signal.SIGTERM  # Exit status of a process that SIGTERM has ended, as shells report it.
LIMITS_WITH_BFLOAT16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
"""Substrings of the values of ``ONEDNN_MAX_CPU_ISA`` that leave oneDNN the instructions for bfloat16."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save checkpoints so that a kill leaves the previous one, and raise an error that names a damaged one.

    Lightning writes the file to the temporary folder and moves it. If that is on another file system, the move is a
    copy, which can be cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        """Write the whole checkpoint before it replaces an older one."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_file(path, content.getvalue())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, and raise an error that names it if it is damaged."""
        with naming_what_is_damaged(path):
            return super().load_checkpoint(path, *args, **kwargs)


class Termination(Callback):
    """End a process that got SIGTERM with status 143, and log how to resume.

    The ``SIGTERMException`` of Lightning 2.6 ends it with 0, and a scheduler would take the training for complete.
    ``resume`` says how to resume, by default with ``--ckpt_path`` and the last checkpoint.
    """

    def __init__(self, resume: str | None = None) -> None:
        self._resume = resume

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Set the exit status, and log how to resume."""
        if isinstance(exception, SIGTERMException):
            exception.code = STATUS
            last = getattr(trainer.checkpoint_callback, "best_model_path", "")
            found = f"Resume with --ckpt_path {last}" if Path(last).is_file() else "There is no checkpoint yet."
            if trainer.is_global_zero:
                logger.error("Stopped by SIGTERM after %d steps. %s", trainer.global_step, self._resume or found)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 that may be used; their emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Older versions of torch report none.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("bf16"):
        return True
    allowed = any(name in os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() for name in LIMITS_WITH_BFLOAT16)
    allowed &= torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AMX"))
    return allowed and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def cosine_with_warm_up(step: int, steps: float, warm_up: float = 0) -> float:
    """Factor of the learning rate, in ``[0, 1]``: a linear rise over ``warm_up`` steps, and half a cosine down to zero.

    Example:
        >>> [round(cosine_with_warm_up(step, 4), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return min(1.0, (step + 1) / max(warm_up, 1)) * (1 + cos(pi * min(step / steps, 1))) / 2
