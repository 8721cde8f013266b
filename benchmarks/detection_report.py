"""Tables of the results of ``detection.py`` so far."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from math import isnan
from pathlib import Path
from typing import Any

from anomalib_students.files import replace_file

MEASURES = {"pixel_AUPRO": "AUPRO", "image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC"}
WAYS = {"openvino bf16": "ms, bf16", "openvino int8": "ms, int8"}
NONE = "-"

Result = dict[str, Any]
Results = dict[str, dict[str, list[Result]]]
"""By configuration and category, the results of the seeds."""


def write_report(folder: Path) -> str:
    """Write ``report.md``, and return its text."""
    results = read(folder)
    sections = [
        ("Detection", detection_table(results, folder)),
        ("Image AUROC by the fraction of the image whose mean is the score", fraction_table(results)),
        ("Fall of the image AUROC with the brightness of the test images", brightness_table(results)),
        *((f"Image AUROC by defect: {category}", defect_table(results, category)) for category in categories(results)),
    ]
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections if table)
    notes = [f"{name} has results of different settings." for name in results if n_settings(results[name]) > 1]
    text = "\n\n".join([text, *notes]) + "\n"
    replace_file(folder / "report.md", text.encode())
    return text


def read(folder: Path) -> Results:
    """Read all results."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*/*/seed*.json")):
        results[path.parent.parent.name][path.parent.name].append(json.loads(path.read_text()))
    return results


def categories(results: Results) -> list[str]:
    """Name all categories with results."""
    return sorted({category for by_category in results.values() for category in by_category})


def n_settings(by_category: dict[str, list[Result]]) -> int:
    """Count the different settings of a configuration's results."""
    return len({json.dumps(r["settings"], sort_keys=True) for seeds in by_category.values() for r in seeds})


def detection_table(results: Results, folder: Path) -> str:
    """Make a row for each configuration: measures by category, their mean and worst, and the costs."""
    names = categories(results)
    headings = [
        "configuration",
        "seeds",
        *(f"{category}: {measure}" for category in names for measure in MEASURES.values()),
        *(f"{kind} {measure}" for kind in ("mean", "worst") for measure in MEASURES.values()),
        "GFLOP an image",
        "training, s",
        "of the processor, s",
        *WAYS.values(),
    ]
    rows = []
    for configuration, by_category in results.items():
        cells = [f"{category} {len(seeds)}" for category, seeds in by_category.items()]
        row = [configuration, ", ".join(cells)]
        row += [spread(by_category.get(category, []), measure) for category in names for measure in MEASURES]
        for choose in (statistics.mean, min):
            row += [over_categories(by_category, measure, choose, len(names)) for measure in MEASURES]
        row.append(operations(by_category))
        row += [seconds(by_category, key) for key in ("training_seconds", "training_cpu_seconds")]
        path = folder / configuration / "milliseconds.json"
        milliseconds = json.loads(path.read_text()) if path.is_file() else {}
        row += [f"{milliseconds[way]:.0f}" if way in milliseconds else NONE for way in WAYS]
        rows.append(row)
    return markdown(headings, rows)


def fraction_table(results: Results) -> str:
    """Make a row for each configuration and category: mean image AUROC for each fraction."""
    rows: list[list[str]] = []
    fractions: list[str] = []
    for configuration, by_category in results.items():
        for category, seeds in by_category.items():
            tested = [result["image_AUROC_by_fraction"] for result in seeds]
            fractions = fractions or sorted(tested[0], key=float)
            means = (statistics.mean(result[fraction] for result in tested) for fraction in fractions)
            rows.append([configuration, category, str(len(tested)), *(f"{mean:.3f}" for mean in means)])
    return markdown(["configuration", "category", "seeds", *fractions], rows)


def brightness_table(results: Results) -> str:
    """Make a row for each configuration and category: image AUROC, and its loss at each brightness."""
    rows = []
    factors: list[str] = []
    for configuration, by_category in results.items():
        for category, seeds in by_category.items():
            tested = [r["image_AUROC_by_brightness"] for r in seeds if "image_AUROC_by_brightness" in r]
            if not tested:
                continue
            factors = factors or sorted((f for f in tested[0] if float(f) != 1), key=float)
            plain = statistics.mean(r["1.0"] for r in tested)
            falls = [plain - statistics.mean(r[factor] for r in tested) for factor in factors]
            figures = [plain, *falls, max(falls)]
            rows.append([configuration, category, str(len(tested)), *(f"{figure:.3f}" for figure in figures)])
    falls_at = [f"fall at {factor}" for factor in factors]
    return markdown(["configuration", "category", "seeds", "image AUROC", *falls_at, "largest fall"], rows)


def defect_table(results: Results, category: str) -> str:
    """Make a row for each configuration: mean image AUROC of each type of defect."""
    rows: list[list[str]] = []
    defects: list[str] = []
    for configuration, by_category in results.items():
        tested = [result["image_AUROC_by_defect"] for result in by_category.get(category, [])]
        if tested:
            defects = defects or sorted(tested[0])
            means = (statistics.mean(result[defect] for result in tested) for defect in defects)
            rows.append([configuration, *(f"{mean:.3f}" for mean in means)])
    return markdown(["configuration", *defects], rows)


def spread(seeds: list[Result], measure: str) -> str:
    """Mean over the seeds, with the smallest and the largest value."""
    values = [result[measure] for result in seeds]
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else NONE
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def over_categories(
    by_category: dict[str, list[Result]], measure: str, choose: Callable[[Iterable[float]], float], n_categories: int
) -> str:
    """Mean or worst over the categories of the mean over the seeds; with their number if some are missing."""
    means = [statistics.mean(result[measure] for result in seeds) for seeds in by_category.values()]
    # Without masks there is no AUPRO.
    means = [mean for mean in means if not isnan(mean)]
    if not means:
        return NONE
    part = "" if len(means) == n_categories else f" ({len(means)} of {n_categories})"
    return f"{choose(means):.3f}{part}"


def operations(by_category: dict[str, list[Result]]) -> str:
    """Operations of a forward pass of one image, in units of 10^9, as torch counts them."""
    counts = sorted(result["gflop"] for seeds in by_category.values() for result in seeds if "gflop" in result)
    return f"{counts[0]:.1f}" if counts else NONE


def seconds(by_category: dict[str, list[Result]], key: str) -> str:
    """Mean seconds of a training in each category, as a range."""
    means = sorted(statistics.mean(result[key] for result in seeds) for seeds in by_category.values())
    return f"{means[0]:,.0f}" if len(means) == 1 else f"{means[0]:,.0f} to {means[-1]:,.0f}"


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """Make a table, or nothing if there are no rows."""
    if not rows:
        return ""
    return "\n".join(_lines(headings, rows))


def _lines(headings: list[str], rows: list[list[str]]) -> Iterator[str]:
    for row in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(row)} |"
