"""Networks of timm, with weights that are downloaded or come from a file."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

__all__ = ["check_name", "create_network", "load_weights"]


def check_name(name: str) -> None:
    """Raise a ``ValueError`` if timm has no model of that name."""
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.partition('_')[0].partition('.')[0]}*")[:8]
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        msg = f"timm has no model named {name!r}.{hint}"
        raise ValueError(msg)


def create_network(name: str, pretrained: bool, **arguments: Any) -> nn.Module:
    """Make a network of timm with downloaded or random weights. Raises a ``RuntimeError`` if timm cannot."""
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:
        # What a failed download raises depends on timm's hub client.
        msg = f"timm could not make {name} with its pretrained weights ({error}). Without a network, name a checkpoint."
        raise RuntimeError(msg) from error


def load_weights(model: nn.Module, path: Path, name: str, hint: str) -> None:
    """Load safetensors or a PyTorch state dict into a model, or into its first layers.

    The file may have more layers than the network, but only layers of the model. ``hint`` ends the error about
    missing weights.
    """
    if not path.is_file():
        msg = f"The checkpoint of the source network does not exist: {path}"
        raise FileNotFoundError(msg)
    is_safetensors = path.suffix == ".safetensors"
    try:
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, IndexError, KeyError, OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        msg = f"{path} cannot be read as weights of a network."
        raise RuntimeError(msg) from error
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError) as error:
        msg = f"{path} holds weights of another architecture than {name}."
        raise RuntimeError(msg) from error
    # The layers behind the distilled one may be in the file, but no others within the parts that the model has.
    parts = {part for part, _ in model.named_children()}
    foreign = {key for key in unexpected if key.split(".", maxsplit=1)[0] in parts}
    if foreign - timm.create_model(name).state_dict().keys():
        msg = f"{path} holds weights of another architecture than {name}."
        raise RuntimeError(msg)
    if missing:
        msg = f"{path} lacks {len(missing)} weights of {name}, the first {missing[0]!r}. {hint}"
        raise RuntimeError(msg)
