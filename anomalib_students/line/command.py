"""The commands ``anomalib-students inspect``, ``check`` and ``adjust``; only the last one always needs torch."""

import json
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, get_args

from anomalib_students.files import replace_file
from anomalib_students.user_errors import one_line

from .drift import DriftMonitor
from .inspection import inspect
from .model import LineModel
from .results import Heatmaps, ResultTable, save_pictures
from .sources import find_items, is_live, watch

__all__ = ["create_parser", "main"]


def run_inspect(options: Namespace) -> int:
    """Inspect images with an exported model, and write a row for each; the status is 143 after SIGTERM."""
    stop, received, drifting, start = Event(), set[int](), set[str](), time.monotonic()
    counts = Counter(images=0, anomalous=0, errors=0)

    def end(number: int, _: object) -> None:
        received.add(number)
        stop.set()

    def report(line_end: str = "\n") -> None:
        rate, status = counts["images"] / max(time.monotonic() - start, 1e-6), monitor.status()
        content = {**counts, "images a second": rate, "time": time.time(), "drift": status}
        replace_file(folder / "status.json", json.dumps(content, indent=1).encode())
        drift = f", drift: {', '.join(sorted(drifting)) or 'none'}" if status else ""
        _say(", ".join(f"{n} {what}" for what, n in counts.items()) + f", {rate:.1f} images a second{drift}", line_end)

    if options.watch and len(options.sources) != 1:
        raise ValueError(f"--watch takes one folder, not {len(options.sources)} sources.")
    hint = "LATENCY" if any(map(is_live, options.sources)) else "THROUGHPUT"
    model = LineModel(options.model, options.device, hint, options.precision)
    if not model.good:
        _say("The model carries no statistics of good images: there are no percentiles, and drift is not noticed.")
    monitor, folder = DriftMonitor(model.good.get("statistics", {})), options.output.with_suffix("")
    items = watch(options.sources[0], stop) if options.watch else find_items(options.sources)
    table = ResultTable(options.output, options.resume)
    left = (item for item in items if item.name not in table.done)
    save = partial(save_pictures, folder, options.heatmaps, options.masks)
    is_terminal, reported = sys.stderr.isatty(), start
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, end))
        for result in inspect(model, left, save, stop, monitor):
            table.write(result)
            counts.update(images=1, anomalous=result.is_anomalous, errors=result.error is not None)
            for drift in result.drifts:
                if drift.name not in drifting:
                    _say(f"Drift at {result.name}: {drift}.")
            drifting = {drift.name for drift in result.drifts}
            if time.monotonic() - reported > (1 if is_terminal else 5):
                reported = time.monotonic()
                report("" if is_terminal else "\n")
        report()
    _say(f"Results: {options.output}")
    return 128 + signal.SIGTERM if signal.SIGTERM in received else 0


def run_check(options: Namespace) -> int:
    """Compare exported models with the trained one on images; the status is 1 if more labels flip than allowed."""
    from .check import check, predictor_of

    reference = predictor_of(options.checkpoint, options.model_class)[1] if options.checkpoint else None
    return _print(list(check(options.models, list(find_items(options.data)), reference)), options)


def run_adjust(options: Namespace) -> int:
    """Write a model with a threshold from good images beside the old one."""
    from .adjust import adjust

    good, bad = list(find_items(options.good)), list(find_items(options.bad))
    return _print([adjust(options.model, good, options.rate, bad)], options)


def _print(columns: Sequence[dict[str, Any]], options: Namespace) -> int:
    """Print what was found, and write it to a file; the status is 1 if too many labels flip."""
    if options.output:
        replace_file(options.output, json.dumps(columns, indent=1).encode())
    for name in columns[0]:
        values = [column[name] for column in columns]
        print(f"{name:<28}", *(f"{v:>20.4g}" if isinstance(v, float) else f"{v!s:>20}" for v in values))
    return int(any(column.get("flipped labels", 0) > options.flips for column in columns))


def _say(text: str, end: str = "\n") -> None:
    """Print a line for people, over the line of progress in a terminal."""
    print("\r\033[K" * sys.stderr.isatty() + text, end=end, file=sys.stderr, flush=True)


def create_parser() -> ArgumentParser:
    """Make the parser of the command line."""
    parser = ArgumentParser(prog="anomalib-students", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(run: Any) -> ArgumentParser:  # noqa: ANN401
        added = commands.add_parser(run.__name__[4:], help=run.__doc__, description=run.__doc__)
        added.set_defaults(run=run, flips=0)
        return added

    add = command(run_inspect).add_argument
    add("model", type=Path, help="model that anomalib has exported to OpenVINO or ONNX")
    add("sources", nargs="+", help="folders, patterns, images, videos, cameras (number or address), - for a list")
    add("--output", type=Path, default=Path("results.csv"), help="*.csv, or *.jsonl with all regions (%(default)s)")
    add("--resume", action="store_true", help="go on with the table: skip images that have a row")
    add("--watch", action="store_true", help="go on with images that are written to the folder")
    add("--heatmaps", choices=get_args(Heatmaps), default="anomalous", help="heat maps to save (%(default)s)")
    add("--masks", action="store_true", help="save masks")
    add("--device", default="CPU", help="device of OpenVINO (%(default)s)")
    add("--precision", choices=("f32", "bf16"), help="precision of the computation (OpenVINO's choice)")
    add = (checking := command(run_check)).add_argument
    add("models", type=Path, nargs="+", help="exported models")
    add("--data", nargs="+", required=True, help="folders, patterns or files of images")
    reference = checking.add_mutually_exclusive_group(required=True).add_argument
    reference("--checkpoint", type=Path, help="checkpoint of the trained model")
    reference("--no-checkpoint", action="store_true", help="compare with the first model in float32 instead")
    add("--model-class", default="UninformedStudents", help="anomalib's name of the trained model (%(default)s)")
    add("--flips", type=int, help="most labels that may differ (0)")
    add("--output", type=Path, help="file for the same as JSON")
    add = command(run_adjust).add_argument
    add("model", type=Path, help="exported model of any kind, or checkpoint of UninformedStudents")
    add("--good", nargs="+", required=True, help="folders, patterns or files of good images")
    add("--bad", nargs="+", default=[], help="anomalous images, to say how many are found")
    add("--rate", type=float, default=0.01, help="fraction of good images that may be called anomalous (%(default)s)")
    add("--output", type=Path, help="file for the same as JSON")
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
