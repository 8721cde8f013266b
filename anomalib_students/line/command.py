"""The commands ``anomalib-students inspect``, ``check`` and ``adjust``; only the last one always needs torch."""

import json
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from anomalib_students.files import replace_file
from anomalib_students.user_errors import one_line

from .drift import DriftMonitor
from .inspection import inspect
from .model import LineModel
from .results import ResultTable, save_pictures
from .sources import find_items, is_live, watch


def run_inspect(options: Namespace) -> int:
    """Inspect images with an exported model, and write a row for each; the status is 143 after SIGTERM."""
    if options.watch and len(options.sources) != 1:
        raise ValueError(f"--watch takes one folder, not {len(options.sources)} sources.")
    hint = "LATENCY" if any(map(is_live, options.sources)) else "THROUGHPUT"
    model, table = LineModel(options.model, hint, options.precision), ResultTable(options.output, options.resume)
    if not model.good:
        _say("The model carries no statistics of good images: there are no percentiles, and drift is not noticed.")
    monitor, folder, stop = DriftMonitor(model.good.get("statistics", {})), options.output.with_suffix(""), Event()
    counts, drifting, received = Counter(images=0, anomalous=0, errors=0), set[str](), set[int]()

    def end(number: int, _: object) -> None:
        received.add(number)
        stop.set()

    def report(line_end: str = "\n") -> None:
        rate = counts["images"] / max(time.monotonic() - start, 1e-6)
        status = {**counts, "images a second": rate, "time": time.time(), "drift": monitor.status()}
        replace_file(folder / "status.json", json.dumps(status, indent=1).encode())
        drift = f", drift: {', '.join(sorted(drifting)) or 'none'}" if status["drift"] else ""
        counted = ", ".join(f"{number} {what}" for what, number in counts.items())
        _say(f"{counted}, {rate:.1f} images a second{drift}; results: {options.output}", line_end)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    items = watch(options.sources[0], stop) if options.watch else find_items(options.sources)
    left = (item for item in items if item.name not in table.done)
    save = partial(save_pictures, folder, options.heatmaps, options.masks)
    start = reported = time.monotonic()
    try:
        for result in inspect(model, left, save, stop, monitor):
            table.write(result)
            counts.update(images=1, anomalous=result.is_anomalous, errors=result.error is not None)
            for drift in (each for each in result.drifts if each.name not in drifting):
                _say(f"Drift at {result.name}: {drift}.")
            drifting = {drift.name for drift in result.drifts}
            if time.monotonic() - reported > (1 if sys.stderr.isatty() else 5):
                reported = time.monotonic()
                report("" if sys.stderr.isatty() else "\n")
        report()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 128 + signal.SIGTERM if signal.SIGTERM in received else 0


def run_check(options: Namespace) -> int:
    """Compare exported models with the trained one on images; the status is 1 if more labels flip than allowed."""
    from .check import check, predictor_of

    reference = predictor_of(options.checkpoint, options.model_class)[1] if options.checkpoint else None
    _print(columns := list(check(options.models, list(find_items(options.data)), reference)), options.output)
    return int(any(column["flipped labels"] > options.flips for column in columns))


def run_adjust(options: Namespace) -> int:
    """Write a model with a threshold from good images beside the old one."""
    from .adjust import adjust

    good, bad = list(find_items(options.good)), list(find_items(options.bad))
    _print([adjust(options.model, good, options.rate, bad)], options.output)
    return 0


def _print(columns: Sequence[dict[str, Any]], output: Path | None) -> None:
    for name, *values in zip(columns[0], *(column.values() for column in columns), strict=True):
        print(f"{name:<30}", *(f"{v:>20.4g}" if isinstance(v, float) else f"{v!s:>20}" for v in values))
    if output:
        replace_file(output, json.dumps(columns, indent=1).encode())


def _say(text: str, end: str = "\n") -> None:
    """Print a line for people, over the line of progress in a terminal."""
    print("\r\033[K" * sys.stderr.isatty() + text, end=end, file=sys.stderr, flush=True)


def create_parser() -> ArgumentParser:
    """Make the parser of the command line."""
    parser = ArgumentParser(prog="anomalib-students", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for run in (run_inspect, run_check, run_adjust):
        command = commands.add_parser(run.__name__[4:], help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        add = command.add_argument
        table = "results.csv" if run is run_inspect else None
        add("--output", type=Path, default=table, help="results: *.csv or *.jsonl of inspect (%(default)s), *.json")
        if run is run_inspect:
            add("model", type=Path, help="model that anomalib has exported to OpenVINO or ONNX")
            add("sources", nargs="+", help="folders, patterns, images, videos, cameras (number, address), - for a list")
            add("--resume", action="store_true", help="go on with the table: skip images that have a row")
            add("--watch", action="store_true", help="go on with images that are written to the folder")
            add("--heatmaps", choices=("anomalous", "all", "none"), default="anomalous", help="which (%(default)s)")
            add("--masks", action="store_true", help="save masks")
            add("--precision", choices=("f32", "bf16"), help="precision of the computation (OpenVINO's choice)")
        elif run is run_check:
            add("models", type=Path, nargs="+", help="exported models")
            add("--data", nargs="+", required=True, help="folders, patterns or files of images")
            what = command.add_mutually_exclusive_group(required=True).add_argument
            what("--checkpoint", type=Path, help="checkpoint of the trained model")
            what("--no-checkpoint", action="store_true", help="compare with the first model in float32")
            add("--model-class", default="UninformedStudents", help="anomalib's name of that model (%(default)s)")
            add("--flips", type=int, default=0, help="labels that may differ (%(default)s)")
        else:
            add("model", type=Path, help="exported model of any kind, or checkpoint of UninformedStudents")
            add("--good", nargs="+", required=True, help="folders, patterns or files of good images")
            add("--bad", nargs="+", default=[], help="anomalous images, to say how many are found")
            add("--rate", type=float, default=0.01, help="fraction of false alarms (%(default)s)")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run a command with ``args``, by default those of the process, and return its exit status."""
    options = create_parser().parse_args(args)
    try:
        return options.run(options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        hint = ": pip install 'anomalib-students[line]'" if isinstance(error, ImportError) else ""
        sys.exit(one_line("anomalib-students", error) + hint)


if __name__ == "__main__":
    sys.exit(main())
