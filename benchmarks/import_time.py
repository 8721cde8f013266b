"""Measure what the plugin adds to ``import torch`` in a program that doesn't use anomalib.

Fresh processes import torch with the plugin's entry point and without it, in turns, so that a drift of the machine's
speed affects both. The first turn warms the caches and is dropped. The times are CPU times, which other work on the
machine doesn't affect. The difference includes torch's search for entry points, which every program pays, and the noise
of an import that takes a second. The plugin's share is therefore timed too: what torch does with the entry point.

    python benchmarks/import_time.py --runs 15
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

IMPORT_TORCH = """
from time import process_time
start = process_time()
import torch
print(process_time() - start)
"""

PLUGIN_ALONE = """
from time import process_time
import torch
start = process_time()
from anomalib_students.plugin import activate
activate()
print(process_time() - start)
"""


def milliseconds(script: str, autoload: bool) -> float:
    """Run a script that prints seconds in a fresh process."""
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": str(int(autoload))}
    # An installed package has its bytecode: don't time the compiler.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return 1e3 * float(output.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="processes of each kind")
    runs = parser.parse_args().runs

    series = {
        "import torch, no entry points": (IMPORT_TORCH, False),
        "import torch, with the plugin": (IMPORT_TORCH, True),
        "only the plugin": (PLUGIN_ALONE, False),
    }
    times: dict[str, list[float]] = {name: [] for name in series}
    for run in range(runs + 1):
        for name, (script, autoload) in series.items():
            elapsed = milliseconds(script, autoload)
            if run > 0:
                times[name].append(elapsed)

    print(f"{f'CPU ms, {runs} processes each':32} {'median':>9} {'fastest':>9} {'slowest':>9}")
    for name, values in times.items():
        print(f"{name:32} {statistics.median(values):9.2f} {min(values):9.2f} {max(values):9.2f}")
    without, with_plugin, _ = times.values()
    differences = [b - a for a, b in zip(without, with_plugin, strict=True)]
    print(f"{'difference, turn by turn':32} {statistics.median(differences):9.2f}")


if __name__ == "__main__":
    main()
