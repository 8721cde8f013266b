"""The command ``anomalib-students inspect``; it needs no torch and no library for command lines."""

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Event
from typing import get_args

from .inspection import Result, inspect
from .model import LineModel
from .results import Heatmaps, PictureWriter, ResultTable
from .sources import STANDARD_INPUT, Item, find_items, is_live, watch

__all__ = ["create_parser", "main"]

EVERY = 5.0
"""Seconds between two lines of a log."""


class Tally:
    """What was inspected so far."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.counts: Counter[str] = Counter(images=0, anomalous=0, errors=0)

    def add(self, result: Result) -> None:
        """Count a result."""
        self.counts.update(images=1, anomalous=result.is_anomalous, errors=result.error is not None)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.counts["images"] / max(time.monotonic() - self.start, 1e-6)

    def __str__(self) -> str:
        """Describe the counts in a line."""
        images, anomalous, errors = self.counts.values()
        return f"{images} images, {anomalous} anomalous, {errors} errors, {self.rate:.1f} images a second"


def run_inspect(options: argparse.Namespace) -> int:
    """Inspect images with an exported model, and write a row for each; the status is 143 after SIGTERM."""
    stop, received = Event(), []

    def end(number: int, _: object) -> None:
        received.append(number)
        stop.set()

    hint = "LATENCY" if any(map(is_live, options.sources)) else "THROUGHPUT"
    model = LineModel(options.model, options.device, hint, options.precision)
    items = _items(options.sources, options.watch, stop)
    if not model.good:
        _say("The model carries no statistics of good images: there are no percentiles.")
    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ResultTable(options.output, options.resume) as table:
            pictures = PictureWriter(options.output.with_suffix(""), options.heatmaps, options.masks)
            left = (item for item in items if item.name not in table.done)
            _write(inspect(model, left, pictures, stop), table)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 128 + signal.SIGTERM if signal.SIGTERM in received else 0


def _items(sources: Sequence[str], is_watched: bool, stop: Event) -> Iterator[Item]:
    """List the images; what is missing of the first source is said before the model is compiled."""
    if is_watched:
        if len(sources) != 1:
            msg = f"--watch takes one folder, not {len(sources)} sources."
            raise ValueError(msg)
        return watch(sources[0], stop)
    items = find_items(sources)
    waits = STANDARD_INPUT in sources or any(map(is_live, sources))
    return items if waits else chain([next(items)], items)


def _write(results: Iterator[Result], table: ResultTable) -> None:
    tally = Tally()
    said = tally.start
    is_terminal = sys.stderr.isatty()
    for result in results:
        table.write(result)
        tally.add(result)
        if time.monotonic() - said > (0.1 if is_terminal else EVERY):
            said = time.monotonic()
            _say(str(tally), end="" if is_terminal else "\n")
    _say(f"{tally}; results: {table.path}")


def _say(text: str, end: str = "\n") -> None:
    """Print a line for people, over the line of progress in a terminal."""
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def create_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="anomalib-students inspect", description=run_inspect.__doc__)
    add = parser.add_argument
    add("model", type=Path, help="model that anomalib has exported to OpenVINO or ONNX")
    add("sources", nargs="+", help="folders, patterns, image or video files, cameras (number or address), - for a list")
    add(
        "--output",
        type=Path,
        default=Path("results.csv"),
        help="table: *.csv, or *.jsonl with all regions (%(default)s)",
    )
    add("--resume", action="store_true", help="go on with the table: skip images that have a row")
    add("--watch", action="store_true", help="go on with images that are written to the folder")
    add(
        "--heatmaps",
        choices=get_args(Heatmaps),
        default="anomalous",
        help="save heat maps of which images (%(default)s)",
    )
    add("--masks", action="store_true", help="save masks")
    add("--device", default="CPU", help="device of OpenVINO (%(default)s)")
    add("--precision", choices=("f32", "bf16"), help="precision of the computation (OpenVINO's choice)")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command with ``args``, by default those of the process, and return its exit status."""
    options = create_parser().parse_args(args)
    try:
        return run_inspect(options)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"anomalib-students: {error}")


if __name__ == "__main__":
    sys.exit(main())
