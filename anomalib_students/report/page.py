"""Test a model, and render the results as one HTML file."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jinja2 import Environment, PackageLoader, StrictUndefined

from anomalib_students import __version__
from anomalib_students.files import check_output, replace_file

from .charts import draw_histogram, draw_pro, draw_roc
from .measures import CONFIDENCE, FPR_LIMIT, Rate, alarm_rate, image_roc, kinds_of, pixel_pro, precision_at
from .pictures import colour_stops, in_order, make_card, map_scale, outcome_of
from .results import ImageResult, Thresholds, find_thresholds, provenance, read_results

__all__ = ["render_page", "write_report"]

RARE = 0.01
"""Fraction of defective parts for which the precision is worked out: that of a good production line."""


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

    Raises:
        OSError: If the data cannot be found, or the file cannot be written.
        ValueError: If ``output`` is not named ``*.html``, ``n_images`` is less than 1, or there are no test images, or
            one that cannot be read.

    Example:
        >>> from anomalib.data import SampleParts
        >>> from anomalib.models import UninformedStudents
        >>> model = UninformedStudents.load_from_checkpoint("model.ckpt")  # doctest: +SKIP
        >>> write_report(model, SampleParts(), "report.html", accelerator="cpu")  # doctest: +SKIP
    """
    output = Path(output)
    check_output(output, ".html", "A report")
    if n_images < 1:
        msg = f"n_images must be at least 1, got {n_images}."
        raise ValueError(msg)
    thresholds = find_thresholds(model)
    results = read_results(model, datamodule, thresholds.score is not None, **trainer_arguments)
    html = render_page(results, thresholds, datamodule, model.name, source, n_images)
    replace_file(output, html.encode())


def render_page(
    results: Sequence[ImageResult],
    thresholds: Thresholds,
    datamodule: AnomalibDataModule,
    model_name: str,
    source: str | None,
    n_images: int,
) -> str:
    """Render the report as HTML that needs no other file."""
    good = [result for result in results if not result.is_defective]
    defective = [result for result in results if result.is_defective]
    is_decided = thresholds.score is not None
    false_alarms, recall = (alarm_rate(images) if is_decided else None for images in (good, defective))
    roc, pro = image_roc(results), pixel_pro(results)
    scale = map_scale(results, thresholds.pixel)
    ordered = in_order(results)
    environment = Environment(
        loader=PackageLoader("anomalib_students.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment.get_template("report.html").render(
        title=f"{datamodule.name}: {datamodule.category}" if datamodule.category else datamodule.name,
        model_name=model_name,
        source=source,
        version=__version__,
        date=datetime.now().astimezone(),
        n_good=len(good),
        n_defective=len(defective),
        thresholds=thresholds,
        provenance=[*provenance(thresholds, datamodule), *_warnings(results, datamodule)],
        confidence=CONFIDENCE,
        false_alarms=false_alarms,
        recall=recall,
        precision=Rate(recall.number, recall.number + false_alarms.number) if recall and false_alarms else None,
        rare=RARE,
        precision_if_rare=precision_at(RARE, recall, false_alarms) if recall and false_alarms else None,
        histogram=draw_histogram(results, thresholds.score),
        roc=roc,
        roc_chart=roc and draw_roc(roc, recall, false_alarms),
        pro=pro,
        pro_chart=pro and draw_pro(pro),
        fpr_limit=FPR_LIMIT,
        kinds=kinds_of(results),
        colour_stops=colour_stops() if scale else None,
        scale=scale,
        outcomes=Counter(outcome_of(result) for result in ordered),
        cards=[make_card(result, scale) for result in ordered[:n_images]],
    )


def _percent(value: float) -> str:
    """Format a rate in percent, with a decimal if it is small."""
    digits = f"{100 * value:.1f}".removesuffix(".0") if value < 0.0995 else f"{100 * value:.0f}"
    return f"{digits}\N{NO-BREAK SPACE}%"


def _warnings(results: Sequence[ImageResult], datamodule: AnomalibDataModule) -> list[str]:
    """Explain what else makes the numbers look better than they are."""
    trained_on = {Path(path).parent for path in datamodule.train_data.samples["image_path"]}
    if datamodule.seed is not None or not any(
        result.path.parent in trained_on for result in results if not result.is_defective
    ):
        return []
    sentence = (
        "Good test images were drawn from the training images at random, and without a seed: the model may have been "
        "trained on some of them. Name the same seed of the data for training and report."
    )
    return [sentence]
