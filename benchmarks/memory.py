"""Measure how the memory of inference grows with the image.

Each size is measured in its own process: the peak memory while it scores an image, less the peak after a first small
image, with which everything is loaded.

    python benchmarks/memory.py --patch_sizes "[17,33,65]" --sides "[256,512,1024,2048]"
"""

import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from jsonargparse import auto_cli
from measuring import machine
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_students import UninformedStudentsModel
from anomalib_students.networks.patch_network import Architecture

KILOBYTE, MEGABYTE = 2**10, 2**20
SMALL_SIDE = 64


def memory(
    patch_sizes: tuple[int, ...] = (17, 33, 65),
    sides: tuple[int, ...] = (256, 512, 1024, 2048),
    max_tiles: tuple[int, ...] = (256, 512, 1024),
    n_students: int = 3,
    output_stride: int = 4,
    architecture: Architecture = "paper",
    bfloat16: bool = False,
) -> None:
    """Print megabytes.

    Args:
        patch_sizes: Receptive fields p of the model's scales.
        sides: Sides of the image in pixels.
        max_tiles: Largest sides of the tiles in which an image is scored.
        n_students: Number M of students.
        output_stride: Distance in pixels between scored pixels.
        architecture: Networks of the model.
        bfloat16: Whether the networks compute in bfloat16.
    """
    title = f"{machine(torch.device('cpu'))}; megabytes, in all and above those of the loaded model"
    table = Table(title=title)
    for heading in ("side", *(f"max_tile {max_tile}" for max_tile in max_tiles)):
        table.add_column(heading, justify="right")
    for side in track(sides, description="Sides"):
        cells = []
        for max_tile in max_tiles:
            # In a process of its own: the most memory of a process never falls.
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
                arguments = (patch_sizes, side, max_tile, n_students, output_stride, architecture, bfloat16)
                before, peak = process.submit(measure, *arguments).result()
            cells.append(f"{peak:,.0f} ({peak - before:,.0f})")
        table.add_row(str(side), *cells)
    Console().print(table)


def measure(
    patch_sizes: tuple[int, ...],
    side: int,
    max_tile: int,
    n_students: int,
    output_stride: int,
    architecture: Architecture,
    bfloat16: bool,
) -> tuple[float, float]:
    """Score an image; return the peak megabytes of this process before and after."""
    model = UninformedStudentsModel(
        patch_sizes=patch_sizes,
        n_students=n_students,
        output_stride=output_stride,
        max_tile=max_tile,
        architecture=architecture,
    ).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        model(torch.rand(1, 3, SMALL_SIDE, SMALL_SIDE))
        before = most_megabytes()
        model(torch.rand(1, 3, side, side))
    return before, most_megabytes()


def most_megabytes() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE / MEGABYTE


if __name__ == "__main__":
    auto_cli(memory, as_positional=False)
