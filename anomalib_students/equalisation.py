"""Channels of like ranges, as 8-bit numbers need them.

In 8 bits all channels of a map share one step, so that one channel with large values takes the precision of all
others. Students learn such channels: the largest value of one may be several hundred times that of another. But a
hidden channel can be divided by a factor, and the weights that read it multiplied by the same, without changing what
the network computes, since leaky rectified linear units and max-pooling commute with positive factors. This is the
cross-layer equalisation of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV
2019), here by the ranges that channels have on images.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from .patch_network import PatchNetwork

__all__ = ["equalised"]


@contextmanager
def equalised(model: nn.Module, images: Iterable[torch.Tensor]) -> Iterator[None]:
    """Equalise the hidden channels of all patch networks of a model for a while.

    Afterwards the weights are what they were, to the last bit.

    Args:
        model: Model that has patch networks, or none. It is set to evaluation.
        images: Batches of images that the model takes, by which the ranges of the channels are measured.

    Yields:
        Nothing.
    """
    networks = [module for module in model.modules() if isinstance(module, PatchNetwork)]
    original = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    ranges = _ranges(model.eval(), networks, images) if networks else []
    try:
        for network, of_network in zip(networks, ranges, strict=True):
            _equalise(network, of_network)
        yield
    finally:
        for network, state in zip(networks, original, strict=True):
            network.load_state_dict(state)


@torch.no_grad()
def _ranges(model: nn.Module, networks: list[PatchNetwork], images: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Measure the largest absolute value of each channel of each hidden layer of networks, while a model predicts."""
    ranges: list[list[torch.Tensor]] = []
    hooks = []
    for network in networks:
        hidden = [cast("nn.Conv2d", module) for module in network.convolutions][:-1]
        ranges.append([layer.weight.new_zeros(layer.out_channels) for layer in hidden])
        hooks.append(network.activation.register_forward_hook(_Recorder(ranges[-1])))
    try:
        for batch in images:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


class _Recorder:
    """Hook of a network's activation, which it calls for one hidden layer after the other.

    Args:
        ranges: For each hidden layer, the largest absolute value of each channel so far; is updated.
    """

    def __init__(self, ranges: list[torch.Tensor]) -> None:
        self.ranges = ranges
        self.calls = 0

    def __call__(self, _module: nn.Module, _inputs: tuple[torch.Tensor, ...], features: torch.Tensor) -> None:
        layer = self.calls % len(self.ranges)
        self.ranges[layer] = torch.maximum(self.ranges[layer], features.abs().amax(dim=(0, 2, 3)))
        self.calls += 1


@torch.no_grad()
def _equalise(network: PatchNetwork, ranges: list[torch.Tensor]) -> None:
    """Scale each hidden channel by the root of its range, and of that of the weights that read it."""
    convolutions = [cast("nn.Conv2d", module) for module in network.convolutions]
    for (convolution, following), of_values in zip(pairwise(convolutions), ranges, strict=True):
        weights = following.weight.abs()
        # The weights of each output channel have steps of their own.
        of_weights = (weights / weights.amax(dim=(1, 2, 3), keepdim=True)).nan_to_num().amax(dim=(0, 2, 3))
        factor = (of_values / of_weights).sqrt()
        # Channels that are always zero, or that nothing reads.
        factor = torch.where(factor.isfinite() & (factor > 0), factor, 1)
        convolution.weight.div_(factor[:, None, None, None])
        cast("nn.Parameter", convolution.bias).div_(factor)
        following.weight.mul_(factor[:, None, None])
