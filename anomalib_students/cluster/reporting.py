"""Report metrics of a run of Lightning to Ray."""

from lightning.pytorch import Callback, LightningModule, Trainer
from ray import train

__all__ = ["ReportMetrics"]


class ReportMetrics(Callback):
    """Report what has been logged to Ray Train after each validation, from all workers alike."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the metrics.

        Args:
            trainer: Trainer that has run the validation.
            pl_module: Model.
        """
        del pl_module
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        train.report({**metrics, "step": trainer.global_step})
