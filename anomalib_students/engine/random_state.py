"""Random numbers of a training that is resumed."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["RandomState"]


class RandomState(Callback):
    """Keep the state of torch's random numbers in checkpoints, and resume with it.

    The order of the images, their augmentation and the phases that are trained on are drawn from it. Without it, a
    resumed training would repeat the orders of its first epochs, or differ from one that was not interrupted.
    """

    def __init__(self) -> None:
        self._resumed: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Save the state of torch's random numbers on the CPU."""
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state at once: the data loader draws from it if the optimizers ask for the number of steps."""
        self._resumed = state_dict["torch"]
        self._restore()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state just before the data loader draws from it, unless it has drawn already."""
        if trainer.train_dataloader is None:
            self._restore()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state again if the first epoch draws the images anew.

        It does if the checkpoint was written by a validation: Lightning then ends that epoch before it starts the next.
        """
        if not trainer.fit_loop.is_resuming:
            self._restore()
        self._resumed = None

    def _restore(self) -> None:
        if self._resumed is not None:
            torch.set_rng_state(self._resumed.cpu())
