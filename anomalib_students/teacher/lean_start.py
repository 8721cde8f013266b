"""What the distillation of a lean teacher starts from: the first stages of EfficientNet-Lite0, exactly."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from anomalib_students.networks.lean import LEVELS, LeanTeacher, align
from anomalib_students.networks.patch_network import NEGATIVE_SLOPE
from anomalib_students.networks.statistics import RunningStatistics

from .sources import FeatureSource

__all__ = ["start_from", "whiten"]

SHRINKAGE = 0.02
"""Fraction of the mean variance of a level that is added to that of each direction before whitening."""


@torch.no_grad()
def start_from(teacher: LeanTeacher, sources: Sequence[FeatureSource]) -> None:
    """Draw a teacher's head, and copy its stages from the sources' EfficientNet-Lite0, with batch norm folded in.

    Raises a ``ValueError`` if no source is one.
    """
    source = next((source for source in sources if source.name == "tf_efficientnet_lite0"), None)
    if source is None:
        msg = "A lean teacher starts from the source tf_efficientnet_lite0, which is missing in sources."
        raise ValueError(msg)
    for layer in cast("Sequence[nn.Conv2d]", list(teacher.head)):
        nn.init.kaiming_normal_(layer.weight, a=NEGATIVE_SLOPE)
        nn.init.zeros_(cast("torch.Tensor", layer.bias))
    network: Any = source.model
    _fold(teacher.stem, network.conv_stem, network.bn1)
    # The teacher takes images normalised as for ImageNet, the network by statistics of its own.
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    weight = teacher.stem.weight
    cast("nn.Parameter", teacher.stem.bias).add_((weight * (mean - source.mean) / source.std).sum(dim=(1, 2, 3)))
    weight *= std / source.std
    blocks = [block for stage in list(network.blocks)[:4] for block in stage]
    own = [block for stage in teacher.stages for block in (stage if isinstance(stage, nn.Sequential) else [stage])]
    for mine, block in zip(cast("Sequence[Any]", own), blocks, strict=False):
        norms = [module for name, module in block.named_children() if name.startswith("bn")]
        layers = ("conv_pw", "conv_dw", "conv_pwl") if hasattr(block, "conv_pwl") else ("conv_dw", "conv_pw")
        targets = [layer for layer in (mine.expand, mine.depthwise, mine.project) if isinstance(layer, nn.Conv2d)]
        for target, name, norm in zip(targets, layers, norms, strict=True):
            _fold(target, getattr(block, name), norm)


@torch.no_grad()
def whiten(teacher: LeanTeacher, batches: Iterable[torch.Tensor]) -> None:
    """Set a teacher's whitening, and scale what its head takes, by images ``(B, 3, H, W)``."""
    statistics = [RunningStatistics(channels, covariance=True) for channels in LEVELS]
    for images in batches:
        for level, of_level in zip(align(*teacher.levels(teacher.first_features(images))), statistics, strict=True):
            of_level.update(level.movedim(1, -1).flatten(0, -2))
    for layer, of_level in zip(teacher.whitening, statistics, strict=True):
        variances, directions = torch.linalg.eigh(of_level.covariance)
        matrix = (directions * (variances + SHRINKAGE * variances.mean()).rsqrt()).T
        cast("nn.Parameter", layer.weight).copy_(matrix[..., None, None])
        cast("nn.Parameter", layer.bias).copy_(-matrix @ of_level.mean)
    for head, of_level in ((teacher.head[0], statistics[0]), (teacher.head[-1], statistics[1])):
        _standardise(cast("nn.Conv2d", head), of_level.mean.float(), of_level.std.float())


def _standardise(layer: nn.Conv2d, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Let a convolution take the last of its input channels as they are, not standardised."""
    weight = layer.weight[:, -len(mean) :]
    weight /= std.view(-1, 1, 1)
    cast("nn.Parameter", layer.bias).sub_((weight * mean.view(-1, 1, 1)).sum(dim=(1, 2, 3)))


def _fold(target: nn.Conv2d, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let a convolution do what another and its batch norm do."""
    factor = norm.weight / (cast("torch.Tensor", norm.running_var) + norm.eps).sqrt()
    target.weight.copy_(convolution.weight * factor.view(-1, 1, 1, 1))
    cast("nn.Parameter", target.bias).copy_(norm.bias - cast("torch.Tensor", norm.running_mean) * factor)
