"""The results of a sweep: a table, a plot of the metric over the weights, and the best settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
import yaml
from matplotlib.figure import Figure

from anomalib_students.runs.workers import cause

from .report import png_bytes
from .sweep_settings import LOSS_WEIGHTS, PAPER_WEIGHTS, Sweep

if TYPE_CHECKING:
    from ray.tune import Result, ResultGrid

__all__ = ["sweep_files", "sweep_table"]

NO_LOSS = "no loss"


def sweep_table(sweep: Sweep, results: ResultGrid) -> pd.DataFrame:
    """Make a row for each trial, the best first: arguments, metric on validation and test images, and how it ended.

    Trials that were stopped early have no metric on test images.
    """
    rows = []
    for result in (results[index] for index in range(len(results))):
        config, metrics = result.config or {}, result.metrics or {}
        test = metrics.get(f"test_{sweep.metric}")
        rows.append(
            {
                **{name: config.get(name) for name in sweep.choices},
                sweep.metric: metrics.get(sweep.metric),
                f"test_{sweep.metric}": test,
                "in the paper": {name: config.get(name) for name in LOSS_WEIGHTS} in PAPER_WEIGHTS,
                "end": _end(result, config, finished=test is not None),
            }
        )
    columns = [*sweep.choices, sweep.metric, f"test_{sweep.metric}", "in the paper", "end"]
    return pd.DataFrame(rows, columns=columns).sort_values(sweep.metric, ascending=False, ignore_index=True)


def sweep_files(sweep: Sweep, table: pd.DataFrame) -> dict[str, bytes]:
    """Make ``sweep.csv``, ``sweep.md`` and, if any trial is finished, ``sweep.png`` and ``best.yaml``.

    ``best.yaml`` is a configuration of ``anomalib-students pretrain``.
    """
    known = table.astype(object).where(table.notna(), None)
    files = {
        "sweep.csv": table.to_csv(index=False).encode(),
        "sweep.md": (known.to_markdown(index=False, floatfmt=".4g", missingval="") + "\n").encode(),
    }
    finished = table[table["end"] == "finished"]
    if len(finished):
        files["sweep.png"] = _plot(sweep, table)
        best = {**sweep.pretraining, **{name: finished.iloc[0][name] for name in sweep.choices}}
        plain = {name: _plain(value) for name, value in best.items()}
        files["best.yaml"] = yaml.safe_dump(plain, sort_keys=False).encode()
    return files


def _end(result: Result, config: Mapping[str, Any], finished: bool) -> str:
    if result.error is not None:
        return f"failed: {cause(result.error)}"
    if not any(config[name] for name in LOSS_WEIGHTS):
        return NO_LOSS
    return "finished" if finished else "stopped early"


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Convert numbers of numpy to Python's, and paths to text."""
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def _plot(sweep: Sweep, table: pd.DataFrame) -> bytes:
    """Plot the metric over each weight; the trials of the paper's settings are filled."""
    measured = table[table["end"] != NO_LOSS].dropna(subset=[sweep.metric])
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        for axes, weight in zip(figure.subplots(1, 3, sharey=True), LOSS_WEIGHTS, strict=True):
            values = sorted(set(measured[weight]))
            for of_paper, fillstyle in ((True, "full"), (False, "none")):
                rows = measured[measured["in the paper"] == of_paper]
                places = [values.index(value) for value in rows[weight]]
                axes.plot(places, rows[sweep.metric], "C0o", fillstyle=fillstyle)
            axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
            axes.set_xlim(-0.5, len(values) - 0.5)
            axes.set_xlabel(weight)
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel(f"{sweep.metric}, validation")
        figure.suptitle("Filled: settings of the paper")
        return png_bytes(figure)
