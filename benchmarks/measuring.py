"""What the benchmarks share: times, and the name of the machine they were taken on."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(function: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median time of a call, after one to warm up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def machine(device: torch.device) -> str:
    """Name the device, and how much of the processor there is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", maxsplit=1)[1].strip()
    return platform.processor() or platform.machine()
