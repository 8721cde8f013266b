"""Metrics of each patch size by itself, beside those of all together."""

from functools import partial
from typing import Any, cast

import torch
from anomalib.data import Batch, ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchmetrics import Metric

from .anomaly_map import image_score
from .metrics import create_metrics

__all__ = ["ScaleMetrics"]


class ScaleMetrics(Callback):
    """Log what each scale of a multi-scale model would reach by itself, in the one pass of the test.

    The names are those of the model's own metrics with the scale before them, as ``p33_pixel_AUPRO``. A model with a
    single scale is left alone.

    Args:
        fpr_limit: False positive rate up to which AUPRO integrates, in ``(0, 1]``.
    """

    def __init__(self, fpr_limit: float = 0.3) -> None:
        self.fpr_limit = fpr_limit
        self._score_window = 1
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._maps: dict[str, list[torch.Tensor]] = {}
        self._metrics: dict[str, list[Metric]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register hooks that keep the maps of the ensembles."""
        self._score_window = cast("int", cast("nn.Module", pl_module.model).score_window)
        ensembles = cast("nn.ModuleDict", cast("nn.Module", pl_module.model).ensembles)
        if len(ensembles) < 2:
            return
        for scale, ensemble in ensembles.items():
            self._maps[scale] = []
            self._metrics[scale] = cast("list[Metric]", create_metrics(f"{scale}_", self.fpr_limit))
            self._hooks.append(ensemble.register_forward_hook(partial(self._keep_map, scale)))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the maps of a batch."""
        for scale, maps in self._maps.items():
            anomaly_map = torch.cat(maps)
            maps.clear()
            scored = ImageBatch(
                image=batch.image,
                gt_label=batch.gt_label,
                gt_mask=batch.gt_mask,
                anomaly_map=anomaly_map,
                pred_score=image_score(anomaly_map.unsqueeze(1), self._score_window),
            )
            for metric in self._metrics[scale]:
                metric.to(anomaly_map.device).update(scored)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of each scale."""
        for metrics in self._metrics.values():
            for metric in metrics:
                # Metrics without ground truth have had no update.
                if metric.update_called:
                    pl_module.log(str(metric.name), metric.compute())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks."""
        while self._hooks:
            self._hooks.pop().remove()
        self._maps.clear()
        self._metrics.clear()

    def _keep_map(self, scale: str, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        self._maps[scale].append(output.squeeze(1))
