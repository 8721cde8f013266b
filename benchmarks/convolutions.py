"""Compare ways to make the convolutions of p = 17 faster without changing what they compute.

The network for p = 17 has no pooling: its 5 x 5 convolutions at full resolution are nearly all of its cost. The first
table compares the convolutions of the libraries with fast algorithms (Winograd's minimal filtering, Fourier transforms)
and with tiles that fit into caches. The error is the largest difference from float64, relative to the largest value.
The second table compares teacher and students one after the other with one convolution for all of them: a plain one for
the first layers, which see the same image, and grouped ones for the others.

    python benchmarks/convolutions.py --side 256
"""

from collections.abc import Callable
from functools import partial

import nncf
import numpy as np
import openvino
import torch
from einops import rearrange
from jsonargparse import auto_cli
from measuring import machine, seconds
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.nn import functional

CHANNELS = 256
KERNEL = 5
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials of Winograd's algorithm are evaluated, beside infinity."""


def convolutions(side: int = 256, networks: int = 4, runs: int = 5) -> None:
    """Print milliseconds, and how many times as fast as the library's convolution in float32 each way is.

    Args:
        side: Side of the output of a convolution in pixels.
        networks: Networks that see the same image: a teacher and M students.
        runs: Times that each way is timed.
    """
    torch.manual_seed(0)
    title = machine(torch.device("cpu"))
    with torch.inference_mode():
        Console(width=120).print(algorithms(side, runs, title), ensembles(side, networks, runs, title))


def algorithms(side: int, runs: int, title: str) -> Table:
    """Compare ways to compute one convolution."""
    convolution = nn.Conv2d(CHANNELS, CHANNELS, KERNEL, bias=False)
    image = torch.randn(1, CHANNELS, side + KERNEL - 1, side + KERNEL - 1)
    # Enough of the image for every way to have several tiles of it.
    expected = functional.conv2d(image[..., :128, :128].double(), convolution.weight.double())
    ways: dict[str, nn.Module] = {"PyTorch": convolution}
    ways |= {f"PyTorch, tiles of {tile}": TiledConvolution(convolution, tile) for tile in (32, 64, 128)}
    ways |= {f"Winograd, tiles of {m} x {m}": WinogradConvolution(convolution, m) for m in (2, 4)}
    ways |= {f"Fourier transform of {size} x {size}": FourierConvolution(convolution, size) for size in (16, 32)}
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = dict(ways)
    calls["PyTorch, bfloat16"] = InBfloat16(convolution)
    for precision in ("f32", "bf16", "int8"):
        calls[f"OpenVINO, {precision}"] = InOpenVINO(convolution, image, precision)
    calls["Winograd, tiles of 4 x 4, OpenVINO, f32"] = InOpenVINO(ways["Winograd, tiles of 4 x 4"], image, "f32")
    table = Table(title=f"{KERNEL} x {KERNEL} convolution of {CHANNELS} channels, {side} x {side} outputs; {title}")
    for heading in ("way", "ms", "times as fast", "error"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    reference = float("nan")
    for name, call in track(calls.items(), description="Algorithms"):
        time = seconds(partial(call, image), image.device, runs)
        reference = time if name == "PyTorch" else reference
        rows, columns = expected.shape[-2:]
        difference = (call(image)[..., :rows, :columns].double() - expected).abs().max() / expected.abs().max()
        table.add_row(name, f"{1e3 * time:.0f}", f"{reference / time:.2f}", f"{difference:.0e}")
    return table


def ensembles(side: int, networks: int, runs: int, title: str) -> Table:
    """Compare ways to compute the same layer of several networks."""
    table = Table(title=f"the same layer of {networks} networks, {side} x {side} outputs; {title}")
    for heading in ("layer", "precision", "one after the other, ms", "in one convolution, ms", "times as fast"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    layers = {
        "6 x 6, 3 to 128 channels, the same input": (3, 128, 6),
        "5 x 5, 256 to 256 channels, grouped": (256, 256, 5),
    }
    for dtype in (torch.float32, torch.bfloat16):
        for name, (channels_in, channels_out, kernel) in track(layers.items(), description=f"Ensembles, {dtype}"):
            shared = channels_in == 3
            image = torch.randn(1, channels_in, side + kernel - 1, side + kernel - 1).to(dtype)
            stacked_image = image if shared else torch.cat([image] * networks, dim=1)
            weights = [torch.randn(channels_out, channels_in, kernel, kernel).to(dtype) for _ in range(networks)]
            stacked = partial(functional.conv2d, groups=1 if shared else networks)
            apart = seconds(partial(one_after_the_other, image, weights), image.device, runs)
            together = seconds(partial(stacked, stacked_image, torch.cat(weights)), image.device, runs)
            figures = (f"{1e3 * apart:.0f}", f"{1e3 * together:.0f}", f"{apart / together:.2f}")
            table.add_row(name, str(dtype).removeprefix("torch."), *figures)
    return table


def one_after_the_other(image: torch.Tensor, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Convolve an image with the weights of each network."""
    return [functional.conv2d(image, weight) for weight in weights]


class TiledConvolution(nn.Module):
    """Convolve tiles of the output one after the other."""

    def __init__(self, convolution: nn.Conv2d, tile: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.tile = tile

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve an image of shape ``(1, C, H, W)``."""
        overlap = KERNEL - 1
        rows, columns = (range(0, length - overlap, self.tile) for length in image.shape[-2:])
        size = self.tile + overlap
        parts = [
            [self.convolution(image[..., row : row + size, column : column + size]) for column in columns]
            for row in rows
        ]
        return torch.cat([torch.cat(line, dim=-1) for line in parts], dim=-2)


class WinogradConvolution(nn.Module):
    """Winograd's minimal filtering F(m x m, 5 x 5): (m + 4)^2 products for m^2 outputs, instead of 25 for each.

    Lavin and Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The transforms are those of Cook and
    Toom, transposed: products of polynomials are taken at points, and interpolated.
    """

    def __init__(self, convolution: nn.Conv2d, m: int) -> None:
        super().__init__()
        self.m, self.n = m, m + KERNEL - 1
        to_data = np.linalg.inv(values_at_points(self.n, self.n)).T
        to_weight, to_output = values_at_points(self.n, KERNEL), values_at_points(self.n, m).T
        weight = np.einsum("ur,vs,oirs->uvoi", to_weight, to_weight, convolution.weight.detach().double().numpy())
        self.register_buffer("weight", torch.from_numpy(weight.reshape(self.n**2, *weight.shape[2:])).float())
        self.register_buffer("to_data", torch.from_numpy(np.kron(to_data, to_data)).float())
        self.register_buffer("to_output", torch.from_numpy(np.kron(to_output, to_output)).float())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve an image of shape ``(1, C, H, W)``, where m divides the sides of the output."""
        rows, columns = ((length - KERNEL + 1) // self.m for length in image.shape[-2:])
        tiles = image[0].unfold(1, self.n, self.m).unfold(2, self.n, self.m)
        tiles = rearrange(tiles, "c h w u v -> (u v) (c h w)")
        tiles = (self.to_data @ tiles).view(self.n**2, image.shape[1], rows * columns)
        outputs = self.to_output @ (self.weight @ tiles).flatten(1)
        return rearrange(outputs, "(u v) (c h w) -> 1 c (h u) (w v)", u=self.m, v=self.m, h=rows, w=columns)


class FourierConvolution(nn.Module):
    """Products of the Fourier transforms of overlapping tiles."""

    def __init__(self, convolution: nn.Conv2d, size: int) -> None:
        super().__init__()
        self.size, self.step = size, size - KERNEL + 1
        # Networks correlate: the transform is that of the mirrored kernel, which the conjugate is.
        weight = torch.fft.rfft2(convolution.weight.detach(), s=(size, size)).conj().resolve_conj()
        self.weight = rearrange(weight, "o i u v -> (u v) o i").contiguous()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve an image of shape ``(1, C, H, W)``."""
        height, width = (length - KERNEL + 1 for length in image.shape[-2:])
        rows, columns = (-(-length // self.step) for length in (height, width))
        missing = (columns * self.step - width, rows * self.step - height)
        image = functional.pad(image[0], (0, missing[0], 0, missing[1]))
        tiles = image.unfold(1, self.size, self.step).unfold(2, self.size, self.step)
        spectrum = rearrange(torch.fft.rfft2(tiles), "c h w u v -> (u v) c (h w)")
        products = rearrange(self.weight @ spectrum, "(u v) c (h w) -> c h w u v", u=self.size, h=rows)
        outputs = torch.fft.irfft2(products, s=(self.size, self.size))[..., : self.step, : self.step]
        return rearrange(outputs, "c h w u v -> 1 c (h u) (w v)")[..., :height, :width]


class InBfloat16:
    """Convolve in bfloat16."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self._weight = convolution.weight.detach().bfloat16()

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve an image of shape ``(1, C, H, W)``."""
        return functional.conv2d(image.bfloat16(), self._weight)


class InOpenVINO:
    """Run a module in OpenVINO."""

    def __init__(self, module: nn.Module, image: torch.Tensor, precision: str) -> None:
        exported = openvino.convert_model(module, example_input=image, input=list(image.shape))
        settings = {"PERFORMANCE_HINT": "LATENCY"}
        if precision == "int8":
            exported = nncf.quantize(exported, nncf.Dataset([image.numpy()]))
        else:
            settings["INFERENCE_PRECISION_HINT"] = precision
        self._compiled = openvino.compile_model(exported, "CPU", settings)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Run the module on an image of shape ``(1, C, H, W)``."""
        return torch.from_numpy(self._compiled(image.numpy())[0])


def values_at_points(n: int, degree: int) -> np.ndarray:
    """Evaluate the powers below a degree at n points, the last of which is infinity: ``(n, degree)``."""
    finite = np.array(POINTS[: n - 1])[:, np.newaxis] ** np.arange(degree)
    return np.vstack([finite, np.eye(degree)[-1]])


if __name__ == "__main__":
    auto_cli(convolutions, as_positional=False)
