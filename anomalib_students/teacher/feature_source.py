"""Networks whose feature maps of whole images are distilled into a teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from anomalib_students.engine.precision import has_bfloat16

from .timm_networks import check_name, create_network, load_weights

__all__ = ["GRID_STRIDE", "FeatureSource", "feature_blocks"]

ENLARGEMENT = 2
"""A source sees a crop at this many times its size, and so finer details than it was trained on."""
STRIDES = (8, 16)
"""Distances between the features that are distilled, in pixels of the enlarged crop."""
GRID_STRIDE = STRIDES[0] // ENLARGEMENT
"""Distance between points of the grid to which all features are brought, in pixels of the crop."""
WEIGHTS_HINT = f"The file must have all layers up to those that have a stride of {STRIDES[-1]} pixels."


class FeatureSource(nn.Module):
    """Map images to the features of a frozen network of timm at strides 8 and 16.

    By default timm downloads the weights. ``channels`` are the numbers of features of the two maps.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, checkpoint_path: Path | None = None) -> None:
        super().__init__()
        check_name(name)
        pretrained = checkpoint_path is None
        model: Any = create_network(name, pretrained, features_only=True, out_indices=_out_indices(name))
        if checkpoint_path is not None:
            load_weights(model, checkpoint_path, name, WEIGHTS_HINT)
        self.channels: list[int] = model.feature_info.channels()
        for statistic in ("mean", "std"):
            values = torch.tensor(model.pretrained_cfg[statistic]).view(-1, 1, 1)
            self.register_buffer(statistic, values, persistent=False)
        # Convolutions on the CPU are faster by half with the channels last.
        self.name = name
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images ``(B, 3, H, W)`` in [0, 1] to features ``(B, C, H / 8, W / 8)`` and ``(B, C, H / 16, W / 16)``."""
        return list(self.model((images - self.mean) / self.std))

    def check_side(self, side: int) -> None:
        """Raise a ``ValueError`` if the model cannot see crops of this side, for example if it takes a single size."""
        image = self.mean.new_zeros(1, 3, ENLARGEMENT * side, ENLARGEMENT * side)
        expected = [
            (1, channels, image.shape[-1] // stride, image.shape[-1] // stride)
            for channels, stride in zip(self.channels, STRIDES, strict=True)
        ]
        try:
            suits = [tuple(features.shape) for features in self(image)] == expected
        except (AssertionError, RuntimeError, ValueError):
            suits = False
        if not suits:
            msg = f"{self.name} has no maps of features for crops of {side} pixels: choose another model or crop_side."
            raise ValueError(msg)


@torch.no_grad()
def feature_blocks(sources: Sequence[nn.Module], crops: torch.Tensor) -> list[torch.Tensor]:
    """Describe a grid of points on crops ``(B, 3, S, S)`` in uint8 by blocks of features ``(B, C, S / 4, S / 4)``.

    Entry ``(i, j)`` is centred in the pixels from ``(4 i, 4 j)`` to ``(4 i + 3, 4 j + 3)`` of the crop.
    """
    grid = crops.shape[-1] // GRID_STRIDE
    # Antialiasing only chooses the usual bicubic kernel here, which is less sharp than torch's other one.
    images = functional.interpolate(crops / 255, scale_factor=ENLARGEMENT, mode="bicubic", antialias=True).clamp(0, 1)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
        maps = [features for source in sources for features in source(images)]
    return [functional.interpolate(features.float(), size=(grid, grid), mode="bilinear") for features in maps]


def _out_indices(name: str) -> tuple[int, ...]:
    """Find the last features of a model at each of the strides."""
    try:
        model: Any = create_network(name, pretrained=False, features_only=True)
        info = model.feature_info
        indices = {stride: index for index, stride in zip(info.out_indices, info.reduction(), strict=True)}
        return tuple(indices[stride] for stride in STRIDES)
    except (KeyError, RuntimeError) as error:
        msg = f"{name} has no features at strides of {STRIDES[0]} and {STRIDES[1]} pixels: choose another model."
        raise ValueError(msg) from error
