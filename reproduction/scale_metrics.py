"""AUPRO of each patch size by itself, beside that of all together."""

from functools import partial
from typing import Any, cast

import torch
from anomalib.data import Batch, ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchmetrics import Metric

from anomalib_students.model.metrics import create_metrics

__all__ = ["ScaleMetrics"]


class ScaleMetrics(Callback):
    """Log what each scale of a model would reach by itself, in one pass of the test, as ``p33_pixel_AUPRO``."""

    def __init__(self) -> None:
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._maps: dict[str, list[torch.Tensor]] = {}
        self._metrics: dict[str, Metric] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register hooks that keep the maps of the scales."""
        for scale, ensemble in cast("nn.ModuleDict", cast("nn.Module", pl_module.model).ensembles).items():
            self._maps[scale] = []
            self._metrics[scale] = create_metrics(f"{scale}_")[-1]
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
            anomaly_map = torch.cat(maps).squeeze(1)
            maps.clear()
            scored = ImageBatch(image=batch.image, gt_mask=batch.gt_mask, anomaly_map=anomaly_map)
            self._metrics[scale].to(anomaly_map.device).update(scored)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of each scale."""
        for metric in self._metrics.values():
            pl_module.log(str(cast("Any", metric).name), metric.compute())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks."""
        while self._hooks:
            self._hooks.pop().remove()

    def _keep_map(self, scale: str, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        self._maps[scale].append(output)
