"""The powerful network P whose descriptors are distilled into a teacher (eq. 1)."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.networks.weights import BUNDLED, load_teacher, read_metadata, teacher_path

from .timm_networks import check_name, create_network, load_weights

__all__ = ["DistillationSource"]

BUNDLED_PATCH_SIZE = 33
"""The bundled teacher that is cheap to evaluate, and trained long."""
LAST_LAYER_HINT = "If it ends before, name the last layer that it has as source_layer."


class DistillationSource(nn.Module):
    """Describe patches with a frozen network of timm, or with the bundled teacher for p = 33 (``"bundled"``).

    The descriptor is the model's own pooled feature vector by default, or the globally pooled features of ``layer``. If
    not ``pretrained``, the weights are random.
    """

    def __init__(
        self,
        name: str,
        checkpoint_path: Path | None = None,
        layer: str | None = None,
        input_size: int = 64,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if name == BUNDLED:
            path = teacher_path(BUNDLED, BUNDLED_PATCH_SIZE)
            self.input_size = BUNDLED_PATCH_SIZE
            self.model: nn.Module = load_teacher(path, BUNDLED_PATCH_SIZE, int(read_metadata(path)["descriptor_dim"]))
            return
        self.input_size = input_size
        self.model = _create_model(name, layer, pretrained=pretrained and checkpoint_path is None)
        if checkpoint_path is not None:
            load_weights(self.model, checkpoint_path, name, LAST_LAYER_HINT)
        # Convolutions on the CPU are faster by half with the channels last.
        self.model.to(memory_format=torch.channels_last)
        self.model.eval().requires_grad_(requires_grad=False)

    @property
    def dim(self) -> int:
        """Length k of the descriptor."""
        return self(torch.zeros(1, 3, self.input_size, self.input_size)).shape[1]

    def train(self, mode: bool = True) -> "DistillationSource":
        """Stay in evaluation mode: the source's statistics are part of its weights."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map patches of shape ``(B, 3, p, p)``, normalised as for ImageNet, to descriptors of shape ``(B, k)``."""
        resized = transforms.resize(patches, [self.input_size, self.input_size], antialias=True)
        features = self.model(resized.to(memory_format=torch.channels_last))
        if isinstance(features, list):
            features = functional.adaptive_avg_pool2d(features[0], 1)
        return features.flatten(1)


def _create_model(name: str, layer: str | None, pretrained: bool) -> nn.Module:
    check_name(name)
    arguments: dict[str, Any] = {"num_classes": 0}
    if layer is not None:
        model: Any = timm.create_model(name, features_only=True)
        layers = list(model.feature_info.module_name())
        if layer not in layers:
            msg = f"{name} has no layer {layer!r} to take descriptors from: choose from {layers}."
            raise ValueError(msg)
        arguments = {"features_only": True, "out_indices": (layers.index(layer),)}
    return create_network(name, pretrained, **arguments)
