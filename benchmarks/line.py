"""How fast ``inspect`` is: beside anomalib's inferencer in a loop and OpenVINO's benchmark_app, in time and memory.

    python benchmarks/line.py exported/weights/openvino/model.xml path/to/images --repeat 10000

The images have one size. Each ratio is of two measurements that follow each other, so that other work on the machine
affects both.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from operator import sub
from pathlib import Path

import numpy as np
from anomalib.deploy import OpenVINOInferencer
from jsonargparse import auto_cli

from anomalib_students.line import LineModel, inspect
from anomalib_students.line.sources import Item, decode, find_items

SECONDS = 10
"""Duration of each measurement."""
PAUSE = 0.05
"""Seconds between images of a camera."""


def main(model: Path, images: str, repeat: int = 0, output: Path | None = None) -> None:
    """Measure images a second, latency and memory.

    Args:
        model: Exported model.
        images: Folder of images.
        repeat: Number of images after which the memory is compared with that after a tenth of them; 0 to leave it out.
        output: File for the table; printed too.
    """
    items = list(find_items([images]))
    height, width = decode(items[0]).shape[:2]
    ours = rate(inspect(LineModel(model), cycle(items)))
    app = app_rate(model, height, width)
    again = rate(inspect(LineModel(model), cycle(items)))
    inferencer = OpenVINOInferencer(model)
    loop = rate(inferencer.predict(item.name) for item in cycle(items))
    lines = [
        f"inspect: {ours:.2f} and {again:.2f} images a second of {height} x {width} pixels",
        f"inspect / benchmark_app ({app:.2f}): {(ours + again) / 2 / app:.2f}",
        f"inspect / OpenVINOInferencer in a loop ({loop:.2f}): {again / loop:.2f}",
        "latency beyond decoding and network: {:.2f} ms, with decoding and network {:.1f} ms".format(
            *latency(model, items)
        ),
    ]
    if repeat:
        lines.append("memory: {:.0f} MB after {} images, {:.0f} MB after {}".format(*memory(model, items, repeat)))
    text = "\n".join(lines)
    print(text)
    if output:
        output.write_text(text + "\n")


def rate(results: Iterator) -> float:
    """Results a second, without the first ones, for which the model is compiled."""
    for _ in islice(results, 3):
        pass
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        next(results)
        number += 1
    return number / (time.perf_counter() - start)


def app_rate(model: Path, height: int, width: int) -> float:
    command = ["benchmark_app", "-m", str(model), "-hint", "throughput", "-t", str(SECONDS), "-d", "CPU"]
    shape = ["-data_shape", f"[1,3,{height},{width}]"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([*command, *shape], capture_output=True, text=True, check=True, env=environment)
    return float(re.findall(r"Throughput:\s+([\d.]+) FPS", done.stdout)[-1])


def latency(path: Path, items: list[Item], number: int = 20) -> tuple[float, float]:
    """Median time from a file to its result, beyond that of decoding and network only, in turns; and the latter."""
    model = LineModel(path, hint="LATENCY")
    direct, sent, received = [], [], []

    def camera() -> Iterator[Item]:
        for count, item in enumerate(islice(cycle(items), number)):
            while len(received) < count:
                time.sleep(0.001)
            # Both begin with idle threads: those that have just computed go on at once on a busy machine.
            time.sleep(PAUSE)
            start = time.perf_counter()
            model.predict(decode(item))
            direct.append(1000 * (time.perf_counter() - start))
            time.sleep(PAUSE)
            sent.append(time.perf_counter())
            yield item

    for _ in inspect(model, camera()):
        received.append(time.perf_counter())  # noqa: PERF401  # the camera waits for it
    through = [1000 * (end - start) for start, end in zip(sent, received, strict=True)]
    return statistics.median(map(sub, through, direct)), statistics.median(direct)


def memory(model: Path, items: list[Item], number: int) -> tuple[float, int, float, int]:
    """Memory of this process in MB after a tenth of the images, and after all."""

    def megabytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    small = np.ascontiguousarray(decode(items[0])[:64, :64])
    results = inspect(LineModel(model), (small for _ in range(number)))
    first = 0.0
    for count, _ in enumerate(results, start=1):
        if count == number // 10:
            first = megabytes()
    return first, number // 10, megabytes(), number


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
