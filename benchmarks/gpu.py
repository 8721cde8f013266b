"""Measure the share of its arithmetic that a GPU reaches in dense multi-scale inference.

The operations of an image are counted, and their rate is compared with that of large matrix products in bfloat16 on the
same device. ``compiled`` is ``torch.compile``, which takes minutes to start. The weights are random: only time is
measured.

    python benchmarks/gpu.py --output_strides "[1,4]" --batch_sizes "[1,8,32]"
    python benchmarks/gpu.py --device cpu --patch_sizes "[33]" --batch_sizes "[1]"    # the same on the processor
"""

import sys
from functools import partial

import torch
from jsonargparse import auto_cli
from measuring import count_operations, machine, seconds
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_students import UninformedStudentsModel
from anomalib_students.networks.patch_network import Architecture

MATRIX_SIDE = 8192
CPU_MATRIX_SIDE = 2048


def gpu(
    patch_sizes: tuple[int, ...] = (17, 33, 65),
    architecture: Architecture = "paper",
    n_students: int = 3,
    output_strides: tuple[int, ...] = (1, 4),
    batch_sizes: tuple[int, ...] = (1, 8, 32),
    compiled: bool = True,
    side: int = 256,
    device: str = "cuda",
    runs: int = 10,
) -> None:
    """Print images a second, and the rate of operations as a share of that of matrix products.

    Args:
        patch_sizes: Receptive fields p of the model's scales.
        architecture: Networks of the model.
        n_students: Number M of students.
        output_strides: Distances in pixels between scored pixels.
        batch_sizes: Images at a time.
        compiled: Whether ``torch.compile`` is measured too.
        side: Side of the images in pixels.
        device: Device of torch.
        runs: Times that each way is timed.
    """
    on = torch.device(device)
    if on.type == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here. With --device cpu the same is measured on the processor.")
    rate = rate_of_products(on, runs)
    scales = " + ".join(map(str, patch_sizes))
    title = f"{machine(on)}; {architecture}, p = {scales}, M = {n_students}, {side} px, bfloat16"
    table = Table(title=f"{title}; matrix products: {rate / 1e12:.1f} TFLOP/s")
    for heading in ("output stride", "batch", "way", "GFLOP an image", "images/s", "TFLOP/s", "of matrix products"):
        table.add_column(heading, justify="right")
    ways = ("eager", "compiled") if compiled else ("eager",)
    cases = [(stride, batch, way) for stride in output_strides for batch in batch_sizes for way in ways]
    for stride, batch, way in track(cases, description="Cases"):
        torch.manual_seed(0)
        # Tiles as large as the images: they are scored in one piece, and as many together as the batch has.
        model = UninformedStudentsModel(
            patch_sizes=patch_sizes,
            n_students=n_students,
            output_stride=stride,
            max_tile=batch * side,
            architecture=architecture,
        )
        model = model.eval().to(on)
        images = torch.rand(batch, 3, side, side, device=on)
        operations = count_operations(partial(score, model), images) / batch
        time = seconds(partial(score, torch.compile(model) if way == "compiled" else model, images), on, runs) / batch
        figures = (f"{operations / 1e9:,.0f}", f"{1 / time:,.1f}", f"{operations / time / 1e12:.2f}")
        table.add_row(str(stride), str(batch), way, *figures, f"{operations / time / rate:.0%}")
    Console(width=140).print(table)


@torch.inference_mode()
def score(model: UninformedStudentsModel, images: torch.Tensor) -> object:
    """Score images in bfloat16."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return model(images)


def rate_of_products(device: torch.device, runs: int) -> float:
    """Measure the floating point operations a second of products of large matrices in bfloat16."""
    side = MATRIX_SIDE if device.type == "cuda" else CPU_MATRIX_SIDE
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / seconds(partial(torch.matmul, matrix, matrix), device, runs)


if __name__ == "__main__":
    auto_cli(gpu, as_positional=False)
