"""Patch networks: one descriptor for one square patch (Tables 4, 5a and 5b of the paper).

The networks are data (:data:`LAYERS`), from which the receptive field and the pooling stride follow. They correct three
slips of the printed tables, each of which contradicts the output sizes beside it:

- p = 17: Conv1 has kernel 6 (17 -> 12), not 5;
- p = 33: Conv1 has kernel 5 (33 -> 29), not 3;
- p = 65: Conv5 sees a 1 x 1 map and has kernel 1, not 3; Conv3 has 128 outputs.

The lean networks, the default model's, are in :mod:`~anomalib_students.networks.lean`.

Paper:
    Bergmann, Fauser, Sattlegger, Steger: "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative
    Latent Embeddings", CVPR 2020.
"""

from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

Architecture = Literal["paper", "lean"]
"""Names of the architectures."""
PATCH_SIZES: dict[str, tuple[int, ...]] = {"paper": (17, 33, 65), "lean": (83, 167)}
"""Patch sizes p for which each architecture has a network."""

NEGATIVE_SLOPE = 5e-3  # Slope of the leaky rectified linear unit that follows every convolution but the last.


class ConvolutionLayer(NamedTuple):
    """One convolution of a patch network, valid and with stride 1.

    Attributes:
        kernel_size: Side of the square kernel in pixels.
        channels: Output channels; ``None`` stands for the descriptor dimension d.
        pool: Whether a 2 x 2 max-pooling with stride 2 follows the activation.
    """

    kernel_size: int
    channels: int | None
    pool: bool = False


_layer = ConvolutionLayer
_pooled = partial(ConvolutionLayer, pool=True)

LAYERS: dict[int, tuple[ConvolutionLayer, ...]] = {
    17: (_layer(6, 128), _layer(5, 256), _layer(5, 256), _layer(4, None)),
    33: (_pooled(5, 128), _pooled(5, 256), _layer(2, 256), _layer(4, None)),
    65: (_pooled(5, 128), _pooled(5, 128), _pooled(5, 128), _layer(4, 256), _layer(1, None)),
}
"""Layers of the paper's network for each patch size p."""


class LayerStep(NamedTuple):
    """How a pass over images evaluates a layer, and whether a pooling follows and splits its input into phases."""

    kernel_size: int
    stride: int
    pool: bool
    split: bool


def check_architecture(architecture: str, patch_size: int) -> None:
    """Raise a ``ValueError`` if there is no such architecture, or it has no network for ``patch_size``."""
    if architecture not in PATCH_SIZES:
        raise ValueError(f"architecture must be one of {tuple(PATCH_SIZES)}, got {architecture!r}.")
    patch_sizes = PATCH_SIZES[architecture]
    if patch_size not in patch_sizes:
        raise ValueError(f"{architecture!r} has no network for patch size {patch_size}: choose from {patch_sizes}.")


class PatchNetwork(nn.Module):
    """Map patches of side p to descriptors (Tables 4, 5a, 5b); teacher and students share the architecture.

    Applied to an image larger than p it is fully convolutional, and describes the patches whose top left corners lie
    on a grid with the spacing :attr:`stride`, or a smaller one if poolings split their input into phases.

    Attributes:
        layers: All layers.
        fine_channels: Number of the fine features of a teacher, see :meth:`with_fine_features`.
        first_layer: First layer that the network has; it continues from another network's output of those before.
        convolutions: Convolutions of the layers from ``first_layer`` on.

    Args:
        patch_size: Side p of the square patch in pixels: 17, 33 or 65.
        descriptor_dim: Dimension d of the descriptor.

    Raises:
        ValueError: If there is no network for ``patch_size``, or ``descriptor_dim`` is less than 1.

    Example:
        >>> network = PatchNetwork(patch_size=33)
        >>> network(torch.rand(4, 3, 33, 33)).shape
        torch.Size([4, 128, 1, 1])
    """

    architecture: Architecture = "paper"
    fine_channels = 0

    def __init__(self, patch_size: int, descriptor_dim: int = 128) -> None:
        super().__init__()
        check_architecture(self.architecture, patch_size)
        if descriptor_dim < 1:
            raise ValueError(f"The descriptor dimension must be at least 1, got {descriptor_dim}.")
        self.patch_size = patch_size
        self.descriptor_dim = descriptor_dim
        self.layers = LAYERS[patch_size]
        self.first_layer = 0

        channels = [3, *(layer.channels or descriptor_dim for layer in self.layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[index], channels[index + 1], layer.kernel_size)
            for index, layer in enumerate(self.layers)
        )
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        # The maps take the layout of the weights, in which convolution and pooling are up to twice as fast on a CPU.
        self.to(memory_format=torch.channels_last)

    @property
    def stride(self) -> int:
        """Spacing in pixels between the patches that one pass over an image describes: 2 to the power of poolings."""
        return 2 ** sum(layer.pool for layer in self.layers)

    def initialise(self) -> None:
        """Draw weights that keep the variance from layer to layer (He et al., 2015), and half of it in the last."""
        for module in self.convolutions:
            convolution = cast("nn.Conv2d", module)
            nn.init.kaiming_normal_(convolution.weight, a=NEGATIVE_SLOPE)
            nn.init.zeros_(cast("torch.Tensor", convolution.bias))
        with torch.no_grad():
            cast("nn.Conv2d", self.convolutions[-1]).weight.mul_(0.5)

    def continue_from(self, layer: int) -> None:
        """Drop the layers before ``layer``, which another network computes."""
        self.convolutions = self.convolutions[layer - self.first_layer :]
        self.first_layer = layer

    @property
    def n_layers(self) -> int:
        """Number of layers; students can share the first ones with their teacher."""
        return len(self.layers)

    def splits(self, output_stride: int) -> int:
        """Number of times that a pass splits its input into 2 x 2 phases to describe every s-th pixel."""
        return sum(step.split for step in self.steps(output_stride))

    def input_side(self, outputs: int, output_stride: int) -> int:
        """Side in pixels of the input from which a pass computes ``outputs`` descriptors, alike in every phase."""
        # Not -(-side // divisor): exported models round the quotient of a negative number towards zero.
        phases = 2 ** self.splits(output_stride)
        side = (outputs + phases - 1) // phases
        for step in reversed(self.steps(output_stride)):
            if step.pool:
                side = 2 * side + step.split
            side = (side - 1) * step.stride + step.kernel_size
        return side

    def steps(self, output_stride: int | None = None) -> list[LayerStep]:
        """Decide how to evaluate each layer so that the patches around every s-th pixel are described.

        Args:
            output_stride: Distance s in pixels between the patches, a power of 2; by default, :attr:`stride`.

        Returns:
            A step for each layer. Poolings that would leave out pixels in between split; if there are too few poolings,
            the last convolution takes larger steps.
        """
        steps = []
        output_stride = output_stride or self.stride
        pooling_stride = 1
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            stride = max(1, output_stride // self.stride) if is_last else 1
            split = layer.pool and pooling_stride >= output_stride
            steps.append(LayerStep(layer.kernel_size, stride, layer.pool, split))
            pooling_stride *= 2 if layer.pool else 1
        return steps

    def forward(
        self,
        features: torch.Tensor,
        output_stride: int | None = None,
        first: int | None = None,
        stop: int | None = None,
    ) -> torch.Tensor:
        """Describe patches.

        Args:
            features: Patches of shape ``(B, 3, p, p)``, or images of shape ``(B, 3, H, W)`` with ``H, W >= p``; or what
                the layers before ``first`` return for them.
            output_stride: Distance in pixels between the described patches of an image, a power of 2; by default,
                :attr:`stride`. If it is smaller, poolings split their input into phases, and the images must be padded
                as by :func:`~anomalib_students.networks.dense.fill_phases`.
            first: First layer to apply; by default, :attr:`first_layer`.
            stop: First layer not to apply; by default, all are.

        Returns:
            Descriptors of shape ``(B, d, 1, 1)``, for images ``(n B, d, h, w)``, where n is the number of phases.
        """
        first = self.first_layer if first is None else first
        stop = len(self.layers) if stop is None else stop
        for layer, step in list(enumerate(self.steps(output_stride)))[first:stop]:
            convolution = cast("nn.Conv2d", self.convolutions[layer - self.first_layer])
            if step.stride == 1:
                features = convolution(features)
            else:
                features = functional.conv2d(features, convolution.weight, convolution.bias, stride=step.stride)
            if layer < len(self.layers) - 1:
                features = self.activation(features)
            if step.split:
                features = _pool_every_phase(features)
            elif step.pool:
                features = self.pool(features)
        return features

    def with_fine_features(self, features: torch.Tensor, output_stride: int, first: int) -> torch.Tensor:
        """Describe patches by descriptors and, if there are any, fine features: ``(n B, d + fine_channels, h, w)``."""
        return self(features, output_stride, first)


def _pool_every_phase(features: torch.Tensor) -> torch.Tensor:
    """Pool features of shape ``(B, C, 2h + 1, 2w + 1)`` at each of 2 x 2 offsets to ``(4B, C, h, w)``."""
    # Not by the pooling module, which would copy each of the four shifted maps first.
    larger = torch.maximum(features[..., :-1, :], features[..., 1:, :])
    return torch.cat(
        [
            torch.maximum(larger[..., row::2, column:-1:2], larger[..., row::2, column + 1 :: 2])
            for row in (0, 1)
            for column in (0, 1)
        ]
    )
