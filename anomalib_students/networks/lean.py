"""The lean patch network: the first stages of EfficientNet-Lite and a head, and students of plain convolutions.

The teacher's first stages are those of EfficientNet-Lite0 at strides 2, 4 and 8, and one more block, without padding,
so that a descriptor is a function of its patch: inverted residuals, which cost little (Sandler et al., "MobileNetV2:
Inverted Residuals and Linear Bottlenecks", CVPR 2018). What the last block sees begins the descriptor. A head, which
continues from strides 4 and 8, was distilled to predict the rest. Students continue from the teacher's features at
stride 2 by plain convolutions.

p = 167 is the same network on the image at half its side, which sees twice as far for a quarter of the arithmetic.
"""

import torch
from torch import nn
from torch.nn import functional

from .dense import reflect_pad
from .patch_network import NEGATIVE_SLOPE, PatchNetwork, check_architecture

PATCH_SIZE = 83
HALVED_PATCH_SIZE = 2 * PATCH_SIZE + 1
STRIDE = 8
SHARED_CHANNELS = 16  # Channels of the features, at stride 2, that the students continue from.
STAGE_CHANNELS = (24, 40, 80)
"""Channels of the features of p = 19 at stride 4, p = 67 at stride 8, and p = 83, which begin the descriptor."""
MIDDLE = (PATCH_SIZE - 19) // 2 // 4  # First place at stride 4 whose 19 pixels are in the middle of a patch.
HEAD_WIDTHS = (64, 96, 128, 128)
STUDENT_WIDTHS = (48, 64, 96, 128, 128)


class InvertedResidual(nn.Module):
    """A block of EfficientNet-Lite without padding: expansion, depthwise convolution, projection.

    A block whose input and output have the same shape adds its input, without the border that the convolution loses.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.border = kernel_size // 2
        self.adds_input = inputs == outputs and stride == 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the block to features ``(B, C, H, W)``."""
        expanded = features if isinstance(self.expand, nn.Identity) else functional.relu6(self.expand(features))
        result = self.project(functional.relu6(self.depthwise(expanded)))
        if not self.adds_input:
            return result
        return result + features[..., self.border : -self.border, self.border : -self.border]


class LeanNetwork(PatchNetwork):
    """What teacher and students of the lean architecture have in common: two layers, of which they can share one.

    Raises a ``ValueError`` if the descriptor has no more components than the last stage.
    """

    architecture = "lean"
    n_layers = 2  # The first features, which students can share, and all that follows.
    stride = STRIDE

    def __init__(self, descriptor_dim: int) -> None:
        nn.Module.__init__(self)
        if descriptor_dim <= STAGE_CHANNELS[-1]:
            raise ValueError(f"Lean networks need a descriptor_dim above {STAGE_CHANNELS[-1]}, got {descriptor_dim}.")
        self.patch_size, self.descriptor_dim = PATCH_SIZE, descriptor_dim
        self.layers, self.first_layer = (), 0

    def splits(self, output_stride: int) -> int:
        """Number of times that a pass splits its input into 2 x 2 phases to describe every s-th pixel."""
        return (STRIDE // output_stride).bit_length() - 1

    def input_side(self, outputs: int, output_stride: int) -> int:
        """Side in pixels of the input from which a pass computes ``outputs`` descriptors, alike in every phase."""
        phases = 2 ** self.splits(output_stride)
        return STRIDE * ((outputs + phases - 1) // phases) + PATCH_SIZE - output_stride

    def forward(
        self,
        features: torch.Tensor,
        output_stride: int | None = None,
        first: int | None = None,
        stop: int | None = None,
    ) -> torch.Tensor:
        """Describe patches; see :class:`~anomalib_students.networks.patch_network.PatchNetwork`."""
        first = self.first_layer if first is None else first
        if stop == 0:
            return features
        if first == 0:
            shift = output_stride or STRIDE
            while shift < STRIDE:
                rows, columns = (side - shift for side in features.shape[-2:])
                corners = [(top, left) for top in (0, shift) for left in (0, shift)]
                features = torch.cat([features[..., top : top + rows, left : left + columns] for top, left in corners])
                shift *= 2
            features = self.first_features(features)
        return features if stop == 1 else self.descriptors(features)

    def first_features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features of p = 7 at stride 2 of images ``(B, 3, H, W)``: ``(B, 16, h, w)``."""
        raise NotImplementedError

    def descriptors(self, features: torch.Tensor) -> torch.Tensor:
        """Compute descriptors from the first features."""
        raise NotImplementedError


class LeanTeacher(LeanNetwork):
    """The teacher, of p = 83 and stride 8. Its fine features are those of the 19 pixels in the middle of a patch.

    Attributes:
        stages: Features of p = 7 at stride 2, p = 19 at stride 4, p = 67 at stride 8, and p = 83.
        convolutions: The head, of which all but the last continue from stride 4; the last one reads both.
    """

    fine_channels = STAGE_CHANNELS[0]

    def __init__(self, descriptor_dim: int) -> None:
        super().__init__(descriptor_dim)
        of_19, of_67, of_83 = STAGE_CHANNELS
        self.stem = nn.Conv2d(3, 32, 3, 2)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(InvertedResidual(32, SHARED_CHANNELS, 3, expansion=1)),
                nn.Sequential(InvertedResidual(SHARED_CHANNELS, of_19, 3, 2), InvertedResidual(of_19, of_19, 3)),
                nn.Sequential(InvertedResidual(of_19, of_67, 5, 2), InvertedResidual(of_67, of_67, 5)),
                # In EfficientNet-Lite0 it takes steps of 2, to stride 16.
                nn.Sequential(InvertedResidual(of_67, of_83, 3)),
            ]
        )
        a, b, c, d = HEAD_WIDTHS
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(of_19, a, 3),
                nn.Conv2d(a, b, 3, 2),
                nn.Conv2d(b, c, 3),
                nn.Conv2d(c, d, 3),
                nn.Conv2d(d + of_67, descriptor_dim - of_83, 3),
            ]
        )
        self.to(memory_format=torch.channels_last)

    def first_features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features of p = 7 at stride 2 of images ``(B, 3, H, W)``: ``(B, 16, h, w)``."""
        return self.stages[0](functional.relu6(self.stem(images)))

    def descriptors(self, features: torch.Tensor) -> torch.Tensor:
        """Compute descriptors ``(B, d, h, w)`` from the first features."""
        return self.with_fine_features(features, STRIDE, first=1)[:, : self.descriptor_dim]

    def with_fine_features(self, features: torch.Tensor, output_stride: int, first: int) -> torch.Tensor:
        """Describe patches by descriptors and fine features: ``(n B, d + fine_channels, h, w)``."""
        hidden = of_19 = self.stages[1](self(features, output_stride, first, stop=1))
        of_67 = self.stages[2](of_19)
        for layer in list(self.convolutions)[:-1]:
            hidden = functional.leaky_relu(layer(hidden), NEGATIVE_SLOPE)
        predicted = self.convolutions[-1](torch.cat([hidden, of_67], dim=1))
        rows, columns = (slice(MIDDLE, MIDDLE + 2 * side, 2) for side in predicted.shape[-2:])
        return torch.cat([self.stages[3](of_67), predicted, of_19[..., rows, columns]], dim=1)


class LeanStudent(LeanNetwork):
    """A student, which describes the same patches by plain convolutions."""

    def __init__(self, descriptor_dim: int) -> None:
        super().__init__(descriptor_dim)
        a, b, c, d, e = STUDENT_WIDTHS
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, SHARED_CHANNELS, 7, 2),
                nn.Conv2d(SHARED_CHANNELS, a, 3, 2),
                nn.Conv2d(a, b, 3),
                nn.Conv2d(b, c, 3, 2),
                nn.Conv2d(c, d, 3),
                nn.Conv2d(d, e, 3),
                nn.Conv2d(e, descriptor_dim, 4),
            ]
        )
        self.to(memory_format=torch.channels_last)

    def first_features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features of p = 7 at stride 2 of images ``(B, 3, H, W)``: ``(B, 16, h, w)``."""
        return functional.leaky_relu(self.convolutions[0](images), NEGATIVE_SLOPE)

    def descriptors(self, features: torch.Tensor) -> torch.Tensor:
        """Compute descriptors ``(B, d, h, w)`` from the first features."""
        *hidden, last = list(self.convolutions)[1 - self.first_layer :]
        for layer in hidden:
            features = functional.leaky_relu(layer(features), NEGATIVE_SLOPE)
        return last(features)


def halve(images: torch.Tensor) -> torch.Tensor:
    """Bring images ``(B, C, H, W)`` to half their sides, ``(B, C, ceil(H / 2), ceil(W / 2))``.

    Pixel ``(i, j)`` is the mean around pixel ``(2 i, 2 j)`` of the image, with binomial weights of 3 x 3 pixels.
    """
    channels = images.shape[1]
    weights = images.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(weights, weights).expand(channels, 1, 3, 3)
    return functional.conv2d(reflect_pad(images, 1, 1, 1, 1), kernel, stride=2, groups=channels)


def seen_patch_size(patch_size: int) -> int:
    """Side of the patches that the network for a patch size sees: p = 167 is that of p = 83 at half the side."""
    return PATCH_SIZE if patch_size == HALVED_PATCH_SIZE else patch_size


def make_network(
    patch_size: int, descriptor_dim: int, architecture: str = "paper", *, is_student: bool = False
) -> PatchNetwork:
    """Make a patch network with random weights, which differ in kind for teacher and student of the lean architecture.

    Raises a ``ValueError`` if there is no such architecture, or none for ``patch_size``, or the descriptor dimension is
    out of range.
    """
    check_architecture(architecture, patch_size)
    if architecture == "paper":
        return PatchNetwork(patch_size, descriptor_dim)
    return LeanStudent(descriptor_dim) if is_student else LeanTeacher(descriptor_dim)
