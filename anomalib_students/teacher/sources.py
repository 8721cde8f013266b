"""Source networks of timm, which teachers are distilled from: on single patches (eq. 1), or on whole images."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path
from anomalib_students.trainings import has_bfloat16

ENLARGEMENT = 2  # A source sees a crop at this many times its size, and so finer details than it was trained on.
STRIDES = (8, 16)  # Distances between the features that are distilled, in pixels of the enlarged crop.
GRID_STRIDE = STRIDES[0] // ENLARGEMENT
"""Distance between points of the grid to which all features are brought, in pixels of the crop."""


class DistillationSource(nn.Module):
    """Describe patches with a frozen network of timm, or with the bundled teacher for p = 33 (``"bundled"``).

    The descriptor is the model's own pooled feature vector by default, or the globally pooled features of ``layer``.
    """

    def __init__(
        self, name: str, checkpoint_path: Path | None = None, layer: str | None = None, input_size: int = 64
    ) -> None:
        super().__init__()
        self.input_size = input_size
        if name == BUNDLED:
            self.input_size = 33
            self.model: nn.Module = load_teacher(teacher_path(BUNDLED, 33), 33, 128)
            return
        arguments: dict[str, Any] = {"num_classes": 0}
        if layer is not None:
            layers = list(_create(name, features_only=True).feature_info.module_name())
            if layer not in layers:
                raise ValueError(f"{name} has no layer {layer!r} to take descriptors from: choose from {layers}.")
            arguments = {"features_only": True, "out_indices": (layers.index(layer),)}
        self.model = _frozen(name, checkpoint_path, **arguments)

    @property
    def dim(self) -> int:
        """Length k of the descriptor."""
        return self(torch.zeros(1, 3, self.input_size, self.input_size)).shape[1]

    @torch.no_grad()
    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map patches of shape ``(B, 3, p, p)``, normalised as for ImageNet, to descriptors of shape ``(B, k)``."""
        resized = transforms.resize(patches, [self.input_size, self.input_size], antialias=True)
        features = self.model(resized.to(memory_format=torch.channels_last))
        if isinstance(features, list):
            features = functional.adaptive_avg_pool2d(features[0], 1)
        return features.flatten(1)


class FeatureSource(nn.Module):
    """Map images to the features of a frozen network of timm at strides 8 and 16.

    ``channels`` are the numbers of features of the two maps.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, checkpoint_path: Path | None = None) -> None:
        super().__init__()
        model: Any = _frozen(name, checkpoint_path, features_only=True, out_indices=_out_indices(name))
        self.name = name
        self.channels: list[int] = model.feature_info.channels()
        for statistic in ("mean", "std"):
            values = torch.tensor(model.pretrained_cfg[statistic]).view(-1, 1, 1)
            self.register_buffer(statistic, values, persistent=False)
        self.model: nn.Module = model

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images ``(B, 3, H, W)`` in [0, 1] to features ``(B, C, H / 8, W / 8)`` and ``(B, C, H / 16, W / 16)``."""
        return list(self.model((images - self.mean) / self.std))


def block_channels(sources: Sequence[Any]) -> list[int]:
    """Numbers of features of the blocks of :func:`feature_blocks`."""
    return [channels for source in sources for channels in source.channels] + [sources[-1].channels[-1]]


@torch.no_grad()
def feature_blocks(sources: Sequence[nn.Module], crops: torch.Tensor) -> list[torch.Tensor]:
    """Describe a grid of points on crops ``(B, 3, S, S)`` in uint8 by blocks of features ``(B, C, S / 4, S / 4)``.

    Entry ``(i, j)`` is centred in the pixels from ``(4 i, 4 j)`` to ``(4 i + 3, 4 j + 3)`` of the crop. There are two
    blocks of each source, and one of the last source at stride 16 on the crops as they are, which sees surfaces better.
    """
    grid = crops.shape[-1] // GRID_STRIDE
    crops = (crops / 255).contiguous(memory_format=torch.channels_last)
    # Antialiasing only chooses the usual bicubic kernel here, which is less sharp than torch's other one.
    images = functional.interpolate(crops, scale_factor=ENLARGEMENT, mode="bicubic", antialias=True).clamp(0, 1)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
        maps = [features for source in sources for features in source(images)] + sources[-1](crops)[-1:]
    return [functional.interpolate(features.float(), size=(grid, grid), mode="bilinear") for features in maps]


def _out_indices(name: str) -> tuple[int, ...]:
    """Find the last features of a model at each of the strides."""
    try:
        info = _create(name, features_only=True).feature_info
        indices = {stride: index for index, stride in zip(info.out_indices, info.reduction(), strict=True)}
        return tuple(indices[stride] for stride in STRIDES)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{name} has no features at strides {STRIDES[0]} and {STRIDES[1]}: choose another.") from error


def _create(name: str, pretrained: bool = False, **arguments: Any) -> Any:  # noqa: ANN401 - timm's models differ
    """Make a network of timm with downloaded or random weights."""
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.partition('_')[0].partition('.')[0]}*")[:8]
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise ValueError(f"timm has no model named {name!r}.{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:
        # What a failed download raises depends on timm's hub client.
        msg = f"timm could not make {name} with its pretrained weights ({error}). Without a network, name a checkpoint."
        raise RuntimeError(msg) from error


def _frozen(name: str, path: Path | None, **arguments: Any) -> nn.Module:
    """Make a network without gradients, with weights of a file if there is one, or those that timm downloads."""
    model: nn.Module = _create(name, pretrained=path is None, **arguments)
    if path is not None:
        _load_weights(model, path, name)
    # Convolutions on the CPU are faster by half with the channels last.
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)


def _load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Load a file of safetensors or of PyTorch, which may have more layers of the model than the network."""
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint of the source network does not exist: {path}")
    is_safetensors = path.suffix == ".safetensors"
    try:
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, IndexError, KeyError, OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise RuntimeError(f"{path} cannot be read as weights of a network.") from error
    foreign = f"{path} holds weights of another architecture than {name}."
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError) as error:
        raise RuntimeError(foreign) from error
    # Layers behind the distilled one may be in the file, but no others within the stages that the network has.
    stages = {stage for stage, _ in model.named_children()}
    if {key for key in unexpected if key.partition(".")[0] in stages} - timm.create_model(name).state_dict().keys():
        raise RuntimeError(foreign)
    if missing:
        hint = "Take a file of the whole network; pretraining can also take an earlier source_layer."
        raise RuntimeError(f"{path} lacks {len(missing)} weights of {name}, the first {missing[0]!r}. {hint}")
