"""The command ``report``: test a model, and show the results in one HTML file."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from anomalib_students import __version__
from anomalib_students.files import check_output, replace_file

from .measures import CONFIDENCE, Rate, alarm_rate, image_roc, kinds_of, pixel_aupro
from .pictures import colour_stops, draw_histogram, draw_roc, in_order, make_card, map_scale
from .results import find_thresholds, read_results, remarks

if TYPE_CHECKING:
    # They import all of anomalib's models, which other commands do not need.
    from anomalib.models.components import AnomalibModule

    from anomalib_students.model.lightning_model import UninformedStudents


def report(
    checkpoint: Path,
    data: AnomalibDataModule,
    output: Path = Path("report.html"),
    n_images: int = 500,
    device: str | None = None,
) -> None:
    """Write an HTML file that shows what a model decides on the test images of its data, and where it is wrong.

    The file needs no other file and no network. The numbers are those of `anomalib test` with the same arguments.

    Args:
        checkpoint: Checkpoint of a trained model.
        data: Data module of anomalib, whose test images are shown.
        output: HTML file to write.
        n_images: Most images that are shown: false alarms come first, then misses. The numbers are over all.
        device: Device to compute on, such as cpu or cuda:1. By default the accelerator, if there is one.
    """
    model = load_model(checkpoint, device)
    accelerator, index = model.device.type, model.device.index
    trainer = {"accelerator": accelerator, "devices": 1 if index is None else [index], "enable_model_summary": False}
    write_report(model, data, output, str(checkpoint), n_images, **trainer)
    Console(soft_wrap=True).print(f"The report is in {output}", highlight=False, markup=False)


def load_model(checkpoint: Path, device: str | torch.device | None = None) -> UninformedStudents:
    """Load a trained model in evaluation mode, by default to the accelerator if there is one."""
    from anomalib_students.model.lightning_model import UninformedStudents

    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint}: name the *.ckpt file of a trained model.")
    device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        return UninformedStudents.load_from_checkpoint(checkpoint, map_location=device).eval()
    except (AttributeError, KeyError, TypeError, UnpicklingError) as error:
        raise ValueError(f"{checkpoint} is no checkpoint of UninformedStudents.") from error


def write_report(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    output: str | Path,
    source: str | None = None,
    n_images: int = 500,
    **trainer_arguments: Any,
) -> None:
    """Test a trained model, and write an HTML file that shows what it decides.

    Args:
        model: Trained model, with its pre- and post-processor.
        datamodule: Data module, set up or not, whose test images are shown.
        output: HTML file to write. An older file of that name is replaced.
        source: Where the model is from, such as the path of its checkpoint; None to leave it out.
        n_images: Most images that are shown, at least 1: mistakes come first. The numbers are over all.
        trainer_arguments: Arguments of Lightning's trainer, such as ``accelerator``.
    """
    output = Path(output)
    check_output(output, ".html", "A report")
    if n_images < 1:
        raise ValueError(f"n_images must be at least 1, got {n_images}.")
    thresholds = find_thresholds(model)
    results = read_results(model, datamodule, thresholds.score is not None, **trainer_arguments)
    good = [result for result in results if not result.is_defective]
    defective = [result for result in results if result.is_defective]
    false_alarms = recall = precision = point = None
    if thresholds.score is not None:
        false_alarms, recall = alarm_rate(good), alarm_rate(defective)
        precision = Rate(recall.number, recall.number + false_alarms.number)
        point = (false_alarms.value, recall.value)
    roc = image_roc(results)
    scale = map_scale(results, thresholds.pixel)
    ordered = in_order(results)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = PackageLoader("anomalib_students.report", "template")
    environment.filters["percent"] = _percent
    html = environment.get_template("report.html").render(
        title=f"{datamodule.name}: {datamodule.category}" if datamodule.category else datamodule.name,
        model_name=model.name,
        source=source,
        version=__version__,
        date=datetime.now().astimezone(),
        n_good=len(good),
        n_defective=len(defective),
        thresholds=thresholds,
        remarks=remarks(thresholds, datamodule),
        confidence=CONFIDENCE,
        false_alarms=false_alarms,
        recall=recall,
        precision=precision,
        histogram=draw_histogram(results, thresholds.score),
        roc=roc,
        roc_chart=roc and draw_roc(roc, point),
        aupro=pixel_aupro(results),
        kinds=kinds_of(results),
        colour_stops=colour_stops() if scale else None,
        scale=scale,
        outcomes=Counter(result.outcome for result in ordered),
        cards=[make_card(result, scale) for result in ordered[:n_images]],
    )
    replace_file(output, html.encode())


def _percent(value: float) -> str:
    """Format a rate in percent, with a decimal if it is small."""
    digits = f"{100 * value:.1f}".removesuffix(".0") if value < 0.0995 else f"{100 * value:.0f}"
    return f"{digits}\N{NO-BREAK SPACE}%"
