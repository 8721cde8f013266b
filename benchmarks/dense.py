"""Compare ways to describe every pixel of an image with a patch network.

- ours: :func:`anomalib_students.networks.dense.dense_descriptors`, pooling phases in the batch;
- patches: the patch network on every patch, in large batches. It is timed on a sample, since all patches take hours,
  and its time for the image is extrapolated;
- dilated: the poolings with stride 1, and all later layers dilated;
- multi-pooling: each pooling makes four maps, shifted by a pixel, which are processed one by one and interleaved at the
  end, as Bailer et al. describe it ("Fast Dense Feature Extraction with CNNs that have Pooling or Striding Layers",
  BMVC 2017).

All describe the same pixels, which is checked first. The floating point operations of ours and of the patches are
counted, and the rate of ours is compared with that of large convolutions (256 channels, kernel 5).

    python benchmarks/dense.py --patch_sizes "[17,33,65]" --sides "[128,256]"
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from jsonargparse import auto_cli
from measuring import count_operations, machine, rate_of_convolutions, seconds
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from anomalib_students.networks.dense import dense_descriptors, reflect_pad
from anomalib_students.networks.patch_network import PatchNetwork

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference of descriptors whose values are of the order of 1."""


def dense(
    patch_sizes: tuple[int, ...] = (17, 33, 65),
    sides: tuple[int, ...] = (128, 256, 512),
    precision: Literal["float32", "bfloat16"] = "float32",
    channels_last: bool = True,
    batch_size: int = 512,
    device: str = "cpu",
    runs: int = 3,
) -> None:
    """Print seconds and ratios.

    Args:
        patch_sizes: Receptive fields p.
        sides: Sides of the image in pixels.
        precision: Type of the numbers.
        channels_last: Whether the channels of images and weights lie next to one another in memory.
        batch_size: Patches in a batch.
        device: Device of torch.
        runs: Calls to time of each kind.
    """
    dtype, on = getattr(torch, precision), torch.device(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    convolution_rate = rate_of_convolutions(dtype, layout, on, runs)
    title = f"{machine(on)}, {precision}{', channels last' if channels_last else ', channels first'}"
    table = Table(title=f"{title}; only convolutions: {convolution_rate / 1e9:,.0f} GFLOP/s")
    headings = ["p", "side", "ours", "GFLOP/s", "of convolutions", "patches / ours", "counted", "of counted"]
    for heading in [*headings, "dilated / ours", "multi-pooling / ours"]:
        table.add_column(heading, justify="right")
    for patch_size in patch_sizes:
        network = random_network(patch_size).to(on, dtype, memory_format=layout)
        for side in sides:
            image = torch.rand(1, 3, side, side).to(on, dtype, memory_format=layout)
            table.add_row(
                str(patch_size), str(side), *compare(network, image, layout, batch_size, convolution_rate, runs)
            )
    Console().print(table)


def compare(
    network: PatchNetwork,
    image: torch.Tensor,
    layout: torch.memory_format,
    batch_size: int,
    convolution_rate: float,
    runs: int,
) -> Iterator[str]:
    """Time all ways for one image."""
    border = network.patch_size // 2
    padded = reflect_pad(image, border, border, border, border)
    check(network, image, padded)
    patches = some_patches(padded, network.patch_size, batch_size).contiguous(memory_format=layout)
    of_pixels = image[0, 0].numel() / batch_size
    operations = count_operations(dense_descriptors, network, image)
    counted = count_operations(network, patches) * of_pixels / operations

    def measure(function: Callable[..., torch.Tensor], *arguments: object) -> float:
        return seconds(partial(function, *arguments), image.device, runs)

    # Ours first and last, so that a drift of the machine's speed is not taken for a difference.
    before = measure(dense_descriptors, network, image)
    of_patches = measure(network, patches) * of_pixels
    of_dilated = measure(dilated, network, padded)
    of_multi_pooling = measure(multi_pooling, network, padded)
    ours = (before + measure(dense_descriptors, network, image)) / 2
    yield f"{ours:.3f} s"
    yield f"{operations / ours / 1e9:,.0f}"
    yield f"{operations / ours / convolution_rate:.0%}"
    yield f"{of_patches / ours:.0f}"
    yield f"{counted:.0f}"
    yield f"{of_patches / ours / counted:.0%}"
    yield f"{of_dilated / ours:.2f}"
    yield f"{of_multi_pooling / ours:.2f}"


def random_network(patch_size: int) -> PatchNetwork:
    """Make a random network whose descriptors are of the order of 1."""
    torch.manual_seed(0)
    network = PatchNetwork(patch_size).requires_grad_(requires_grad=False)
    for module in network.convolutions:
        nn.init.kaiming_normal_(module.weight)
    return network


def some_patches(padded: torch.Tensor, patch_size: int, number: int) -> torch.Tensor:
    """Cut patches at random places of a padded image."""
    windows = padded[0].unfold(1, patch_size, 1).unfold(2, patch_size, 1)
    rows, columns = (torch.randint(count, (number,)) for count in windows.shape[1:3])
    return windows[:, rows, columns].movedim(0, 1)


def dilated(network: PatchNetwork, padded: torch.Tensor) -> torch.Tensor:
    """Describe every pixel with dilated layers."""
    features, dilation = padded, 1
    for layer, convolution in zip(network.layers, network.convolutions, strict=True):
        features = functional.conv2d(features, convolution.weight, convolution.bias, dilation=dilation)
        if convolution is not network.convolutions[-1]:
            features = network.activation(features)
        if layer.pool:
            features = functional.max_pool2d(features, kernel_size=2, stride=1, dilation=dilation)
            dilation *= 2
    # Where poolings drop a row, the network sees less than its patch.
    side = padded.shape[-1] - network.patch_size + 1
    return features[..., :side, :side]


def multi_pooling(network: PatchNetwork, padded: torch.Tensor) -> torch.Tensor:
    """Describe every pixel with four shifted maps after each pooling."""
    side = padded.shape[-1] - network.patch_size + 1
    maps = [functional.pad(padded, (0, network.stride - 1, 0, network.stride - 1))]
    n_poolings = 0
    for layer, convolution in zip(network.layers, network.convolutions, strict=True):
        maps = [convolution(features) for features in maps]
        if convolution is not network.convolutions[-1]:
            maps = [network.activation(features) for features in maps]
        if layer.pool:
            maps = [
                network.pool(features[..., row:, column:]) for features in maps for row in (0, 1) for column in (0, 1)
            ]
            n_poolings += 1
    for _ in range(n_poolings):
        maps = [interleave(maps[index : index + 4]) for index in range(0, len(maps), 4)]
    return maps[0][..., :side, :side]


def interleave(maps: list[torch.Tensor]) -> torch.Tensor:
    """Put the pixels of four shifted maps side by side again."""
    batch, channels = maps[0].shape[:2]
    height, width = maps[-1].shape[-2:]
    joined = maps[0].new_empty(batch, channels, 2 * height, 2 * width)
    for index, features in enumerate(maps):
        joined[..., index // 2 :: 2, index % 2 :: 2] = features[..., :height, :width]
    return joined


def check(network: PatchNetwork, image: torch.Tensor, padded: torch.Tensor) -> None:
    """Check that all ways describe the pixels alike."""
    ours = dense_descriptors(network, image)
    for function in (dilated, multi_pooling):
        torch.testing.assert_close(function(network, padded), ours, rtol=0, atol=TOLERANCE[image.dtype])
    size = network.patch_size
    for row, column in ((0, 0), (image.shape[-2] // 3, image.shape[-1] - 1)):
        patch = padded[..., row : row + size, column : column + size]
        torch.testing.assert_close(
            network(patch)[..., 0, 0], ours[..., row, column], rtol=0, atol=TOLERANCE[image.dtype]
        )


if __name__ == "__main__":
    auto_cli(dense, as_positional=False)
