"""Channels of similar ranges, as 8-bit numbers need them.

In 8 bits all channels of a map share one step, so that a channel with large values costs the precision of all others.
Students learn such channels: the largest value of one may be several hundred times that of another. But a hidden
channel can be divided by a factor, and the weights that read it multiplied by the same, without changing what the
network computes, since leaky rectified linear units and max-pooling commute with positive factors. This is the
cross-layer equalisation of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV
2019), here by the ranges that channels have on images.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from anomalib_students.networks.patch_network import NEGATIVE_SLOPE, PatchNetwork

from .ensemble import StudentTeacherEnsemble

__all__ = ["equalised"]


@contextmanager
def equalised(model: nn.Module, images: Iterable[torch.Tensor]) -> Iterator[None]:
    """Equalise the hidden channels of all patch networks of a model within a block, then restore the weights exactly.

    The ranges of the channels are measured on ``images``, batches for the model, which is set to evaluation.
    """
    chains = _chains(model)
    original = [{name: value.clone() for name, value in chain.network.state_dict().items()} for chain in chains]
    ranges = _ranges(model.eval(), chains, images) if chains else {}
    try:
        for chain in chains:
            _equalise(chain, ranges)
        yield
    finally:
        for chain, state in zip(chains, original, strict=True):
            chain.network.load_state_dict(state)


class _Chain(NamedTuple):
    """Layers of a network from ``first`` on.

    Attributes:
        network: Patch network.
        first: First layer that is applied; those before it are another network's.
        heirs: Networks that continue from its features, each from its own first layer.
    """

    network: PatchNetwork
    first: int = 0
    heirs: tuple["_Chain", ...] = ()


def _chains(model: nn.Module) -> list[_Chain]:
    """Find all patch networks of a model; students may continue from their teacher's first layers."""
    chains = {id(module): _Chain(module) for module in model.modules() if isinstance(module, PatchNetwork)}
    for ensemble in model.modules():
        if isinstance(ensemble, StudentTeacherEnsemble) and ensemble.shared_layers:
            students = tuple(_Chain(student, ensemble.shared_layers) for student in ensemble.networks)
            chains.update({id(student.network): student for student in students})
            chains[id(ensemble.teacher)] = _Chain(ensemble.teacher, heirs=students)
    return list(chains.values())


@torch.no_grad()
def _ranges(model: nn.Module, chains: list[_Chain], images: Iterable[torch.Tensor]) -> dict[nn.Module, torch.Tensor]:
    """Measure the largest absolute value of each channel after each hidden convolution, while a model predicts."""
    hidden = [
        _convolution(chain.network, layer)
        for chain in chains
        for layer in range(chain.first, len(chain.network.layers) - 1)
    ]
    ranges: dict[nn.Module, torch.Tensor] = {layer: layer.weight.new_zeros(layer.out_channels) for layer in hidden}

    def record(convolution: nn.Module, _inputs: tuple[torch.Tensor, ...], features: torch.Tensor) -> None:
        activated = functional.leaky_relu(features, NEGATIVE_SLOPE)
        ranges[convolution] = torch.maximum(ranges[convolution], activated.abs().amax(dim=(0, 2, 3)))

    hooks = [convolution.register_forward_hook(record) for convolution in hidden]
    try:
        for batch in images:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


@torch.no_grad()
def _equalise(chain: _Chain, ranges: dict[nn.Module, torch.Tensor]) -> None:
    """Scale each hidden channel by the root of its range, and of that of the weights that read it."""
    for layer in range(chain.first, len(chain.network.layers) - 1):
        convolution = _convolution(chain.network, layer)
        following = [_convolution(chain.network, layer + 1)]
        following += [_convolution(heir.network, layer + 1) for heir in chain.heirs if heir.first == layer + 1]
        of_weights = torch.stack([_of_weights(reader) for reader in following]).amax(dim=0)
        factor = (ranges[convolution] / of_weights).sqrt()
        # Channels that are always zero, or that nothing reads.
        factor = torch.where(factor.isfinite() & (factor > 0), factor, 1)
        convolution.weight.div_(factor[:, None, None, None])
        cast("nn.Parameter", convolution.bias).div_(factor)
        for reader in following:
            reader.weight.mul_(factor[:, None, None])


def _of_weights(convolution: nn.Conv2d) -> torch.Tensor:
    """Largest weight that reads each channel, relative to the step of its output channel."""
    weights = convolution.weight.abs()
    return (weights / weights.amax(dim=(1, 2, 3), keepdim=True)).nan_to_num().amax(dim=(0, 2, 3))


def _convolution(network: PatchNetwork, layer: int) -> nn.Conv2d:
    return cast("nn.Conv2d", network.convolutions[layer])
