"""What the benchmarks share: times, operations, and the names of machine and commit."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def seconds(function: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median time of a call, after a warm-up call."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def count_operations(function: Callable[..., object], *arguments: object) -> int:
    """Count the floating point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def rate_of_convolutions(dtype: torch.dtype, layout: torch.memory_format, device: torch.device, runs: int) -> float:
    """Measure the floating point operations a second of large convolutions."""
    stack = nn.Sequential(*(nn.Conv2d(256, 256, 5) for _ in range(3))).requires_grad_(requires_grad=False)
    stack = stack.to(device, dtype, memory_format=layout)
    features = torch.rand(1, 256, 76, 76).to(device, dtype, memory_format=layout)
    return count_operations(stack, features) / seconds(partial(stack, features), device, runs)


def machine(device: torch.device) -> str:
    """Name the device, and the cores and threads of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads"


def commit() -> str | None:
    """Name the commit of the benchmarks; None if they are not in a Git repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return described.stdout.strip() or None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", maxsplit=1)[1].strip()
    return platform.processor() or platform.machine()
