"""What the distillation of a lean teacher starts from: the first stages of EfficientNet-Lite0, exactly."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from anomalib_students.networks.lean import STAGE_CHANNELS, LeanTeacher
from anomalib_students.networks.statistics import RunningStatistics

from .sources import FeatureSource


@torch.no_grad()
def start_from(teacher: LeanTeacher, sources: Sequence[FeatureSource]) -> None:
    """Copy a teacher's stages from the sources' EfficientNet-Lite0, with batch norm folded in, and freeze them."""
    source = next((source for source in sources if source.name == "tf_efficientnet_lite0"), None)
    if source is None:
        raise ValueError("A lean teacher starts from the source tf_efficientnet_lite0, which is missing in sources.")
    network: Any = source.model
    for stage in (teacher.stem, teacher.stages):
        stage.requires_grad_(requires_grad=False)
    _fold(teacher.stem, network.conv_stem, network.bn1)
    # The teacher takes images normalised as for ImageNet, the network by statistics of its own.
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    weight = teacher.stem.weight
    cast("nn.Parameter", teacher.stem.bias).add_((weight * (mean - source.mean) / source.std).sum(dim=(1, 2, 3)))
    weight *= std / source.std
    own, blocks = chain(*cast("Any", teacher.stages)), chain(*network.blocks)
    for mine, block in zip(own, blocks, strict=False):
        norms = [module for name, module in block.named_children() if name.startswith("bn")]
        layers = ("conv_pw", "conv_dw", "conv_pwl") if hasattr(block, "conv_pwl") else ("conv_dw", "conv_pw")
        targets = [layer for layer in (mine.expand, mine.depthwise, mine.project) if isinstance(layer, nn.Conv2d)]
        for target, name, norm in zip(targets, layers, norms, strict=True):
            _fold(target, getattr(block, name), norm)


@torch.no_grad()
def standardise(teacher: LeanTeacher, batches: Iterable[torch.Tensor]) -> None:
    """Scale the weights of a teacher's head as if it took standardised features, by images ``(B, 3, H, W)``."""
    statistics = [RunningStatistics(channels) for channels in STAGE_CHANNELS[:2]]
    for images in batches:
        features = teacher.first_features(images)
        for stage, of_stage in zip(list(teacher.stages)[1:3], statistics, strict=True):
            features = stage(features)
            of_stage.update(features.movedim(1, -1).flatten(0, -2))
    for reader, of_stage in zip((teacher.convolutions[0], teacher.convolutions[-1]), statistics, strict=True):
        weight = cast("torch.Tensor", reader.weight)[:, -len(of_stage.mean) :]
        weight /= of_stage.std.view(-1, 1, 1)
        cast("torch.Tensor", reader.bias).sub_((weight * of_stage.mean.view(-1, 1, 1)).sum(dim=(1, 2, 3)))


def _fold(target: nn.Conv2d, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let a convolution do what another and its batch norm do."""
    factor = norm.weight / (cast("torch.Tensor", norm.running_var) + norm.eps).sqrt()
    target.weight.copy_(convolution.weight * factor.view(-1, 1, 1, 1))
    cast("nn.Parameter", target.bias).copy_(norm.bias - cast("torch.Tensor", norm.running_mean) * factor)
