"""From the results of a test to the HTML of the report."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from anomalib.data import AnomalibDataModule
from jinja2 import Environment, PackageLoader, StrictUndefined

from anomalib_students import __version__

from .cards import in_order, make_cards, map_scale, outcome_of
from .charts import draw_histogram, draw_pro, draw_roc
from .measures import CONFIDENCE, FPR_LIMIT, Rate, alarm_rate, image_roc, kinds_of, pixel_pro, precision_at
from .pictures import colour_stops
from .results import ImageResult
from .thresholds import Thresholds, provenance

__all__ = ["render_page"]

RARE = 0.01
"""Share of defective parts for which the precision is worked out: that of a good production line."""


def render_page(
    results: Sequence[ImageResult],
    thresholds: Thresholds,
    datamodule: AnomalibDataModule,
    model_name: str,
    source: str | None,
    n_images: int,
) -> str:
    """Render the report as HTML that needs no other file.

    ``source`` is where the model is from, such as the path of its checkpoint; None to leave it out.
    """
    good = [result for result in results if not result.is_defective]
    defective = [result for result in results if result.is_defective]
    is_decided = thresholds.score is not None
    false_alarms, recall = (alarm_rate(part) if is_decided else None for part in (good, defective))
    roc, pro = image_roc(results), pixel_pro(results)
    scale = map_scale(results, thresholds.pixel)
    ordered = in_order(results)
    template = _environment().get_template("report.html")
    return template.render(
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
        no_pro=_why_no_pro(results),
        kinds=kinds_of(results),
        colour_stops=colour_stops() if scale else None,
        scale=scale,
        outcomes=Counter(outcome_of(result) for result in ordered),
        cards=make_cards(ordered[:n_images], scale),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("anomalib_students.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment


def _percent(value: float) -> str:
    """Format a rate in percent, with a decimal if it is small."""
    digits = f"{100 * value:.1f}".removesuffix(".0") if value < 0.0995 else f"{100 * value:.0f}"
    return f"{digits}\N{NO-BREAK SPACE}%"


def _why_no_pro(results: Sequence[ImageResult]) -> str:
    """Explain why there is no PRO curve."""
    if all(result.anomaly_map is None for result in results):
        return "The model scores images as a whole, and has no anomaly maps."
    if not any(result.mask is not None and result.mask.any() for result in results):
        return "The data have no masks of the defects."
    return "The maps differ in size, or some images have no mask."


def _warnings(results: Sequence[ImageResult], datamodule: AnomalibDataModule) -> list[str]:
    """Explain what else makes the numbers look better than they are."""
    samples = datamodule.train_data.samples
    trained_on = {Path(path).parent for path in samples["image_path"]}
    is_split_at_random = datamodule.seed is None and any(
        result.path.parent in trained_on for result in results if not result.is_defective
    )
    if not is_split_at_random:
        return []
    sentence = (
        "Good test images were drawn from the training images at random, and without a seed: the model may have been "
        "trained on some of them. Name the same seed of the data for training and report."
    )
    return [sentence]
