"""Compare rules that choose the threshold of images from only held-out good images.

There are two sources of scores: the results of ``detection.py``, and models that are trained here on digits of MNIST.
400 images of a digit are held out, and each rule sees 25 of them, a thousand times, and as many that were learnt
from. The thousand good test images of a digit then show how often each rule keeps the rate that it is asked for. Models
are kept, so that the same command resumes.

    python benchmarks/detection.py --root datasets/MVTecAD --configurations "[default]"
    python benchmarks/decisions.py --mnist datasets --digits "[0,1,8]"
"""

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detection_report import markdown, read
from jsonargparse import auto_cli
from lightning.pytorch import seed_everything
from rich.console import Console
from scipy import stats

from anomalib_students.false_alarms import fit_gumbel, is_usual, margin
from anomalib_students.files import replace_file
from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path
from reproduction.one_class.data import read_one_class
from reproduction.one_class.students import train_students

RATES = (0.01, 0.05)
SAMPLE = 25
"""Held-out images that a rule sees of a digit, and images learnt from."""
SAMPLES = 1000
PATCH_SIZE = 33
LEARNING = 2000
"""Training images of a digit, a fifth of which is held out."""

Rule = Callable[[np.ndarray, np.ndarray, float], float]
"""From scores of held-out images and of images learnt from, and a rate, to a threshold."""

console = Console(soft_wrap=True, highlight=False)


class Scores(NamedTuple):
    """Scores of one model: of good images that are held out or learnt from, and of good and anomalous test images."""

    held_out: list[float]
    training: list[float]
    good: list[float]
    anomalous: list[float]


def largest(scores: np.ndarray, _: np.ndarray, rate: float) -> float:
    """Order statistic: the largest of n scores is exceeded in one of n + 1 images, whatever the distribution."""
    return float(np.quantile(scores, min(1, (1 - rate) * (1 + 1 / len(scores)))))


def normal(scores: np.ndarray, _: np.ndarray, rate: float) -> float:
    """Upper end of the prediction interval of a normal distribution."""
    spread = scores.std(ddof=1) * (1 + 1 / len(scores)) ** 0.5
    return float(scores.mean() + stats.t.ppf(1 - rate, len(scores) - 1) * spread)


def pareto(scores: np.ndarray, _: np.ndarray, rate: float) -> float:
    """Generalised Pareto distribution of what exceeds the median."""
    median = float(np.median(scores))
    shape, _, scale = stats.genpareto.fit(scores[scores > median] - median, floc=0)
    return median + float(stats.genpareto.ppf(1 - 2 * rate, shape, scale=scale))


def gumbel(
    scores: np.ndarray, learnt: np.ndarray, rate: float, with_margin: bool, outliers: bool = True, spread: bool = False
) -> float:
    """Gumbel's distribution: its quantile, or with a margin for the size of the sample, or also that of the spread."""
    held_out, others = torch.from_numpy(scores), torch.from_numpy(learnt if spread else learnt[:0])
    if not outliers:
        held_out, others = held_out[is_usual(held_out)], others[is_usual(others)]
    location, scale = fit_gumbel(held_out, others)
    scales = margin(len(held_out), rate, len(others)).scales if with_margin else -np.log(-np.log1p(-rate))
    return float(location + scales * scale)


RULES: dict[str, Rule] = {
    "order statistic": largest,
    "normal": normal,
    "generalised Pareto": pareto,
    "Gumbel": partial(gumbel, with_margin=False),
    "Gumbel, with the margin": partial(gumbel, with_margin=True),
    "the same, without outliers": partial(gumbel, with_margin=True, outliers=False),
    "the same, with the spread of images learnt from": partial(gumbel, with_margin=True, outliers=False, spread=True),
}


def decisions(
    detection: Path = Path("results/detection/default"),
    mnist: Path | None = None,
    digits: tuple[int, ...] = (0, 1, 8),
    output: Path = Path("results/decisions"),
) -> None:
    """Write ``report.md``: for each data set, rule and rate the false alarms among good test images, and the recall.

    Args:
        detection: Results of a configuration of ``detection.py``.
        mnist: Folder around that of MNIST; None to leave it out.
        digits: Digits that are normal in turn.
        output: Folder of the report and of the scores of the digits.
    """
    models = {name: [of_detection(result) for result in results] for name, results in read_one(detection).items()}
    if mnist is not None:
        models["MNIST"] = [scores_of_digit(mnist, digit, output / f"mnist{digit}.json") for digit in digits]
    if not models:
        sys.exit(f"There are no results in {detection}: run detection.py first, or name the folder of MNIST.")
    sections = [f"## Asked for {rate:.0%}\n\n{table(models, rate)}" for rate in RATES]
    text = "\n\n".join(sections) + "\n"
    output.mkdir(parents=True, exist_ok=True)
    replace_file(output / "report.md", text.encode())
    console.print(text, markup=False)


def read_one(folder: Path) -> dict[str, list[dict]]:
    """Read the results of one configuration, by category."""
    return {category: list(results) for category, results in read(folder.parent)[folder.name].items()}


def of_detection(result: dict) -> Scores:
    """Take the scores from a result of ``detection.py``."""
    good, anomalous = [], []
    for name, score in result["scores"].items():
        (good if name.startswith("good/") else anomalous).append(score)
    return Scores(result["decision"]["held_out"], result["decision"]["training"], good, anomalous)


def scores_of_digit(root: Path, digit: int, path: Path) -> Scores:
    """Train on a digit, and score the held-out and the test images; once."""
    if path.is_file():
        return Scores(**json.loads(path.read_text()))
    seed_everything(digit)
    images = read_one_class("mnist", root, str(digit), PATCH_SIZE, train_limit=LEARNING, test_limit=4000)
    teacher = load_teacher(teacher_path(BUNDLED, PATCH_SIZE), PATCH_SIZE, 128)
    students = {"n_students": 1, "epochs": 2, "batch_size": 16, "lr": 1e-3, "decays": True}
    model = train_students(teacher, images.training, **students, held_out=0.2)
    test = model.score(images.test)
    held_out, training = images.training.split([LEARNING // 5, LEARNING - LEARNING // 5])
    scores = Scores(
        held_out=model.score(held_out).tolist(),
        training=model.score(training[: len(held_out)]).tolist(),
        good=test[~images.is_anomalous].tolist(),
        anomalous=test[images.is_anomalous].tolist(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(scores._asdict()).encode())
    return scores


def table(models: dict[str, list[Scores]], rate: float) -> str:
    """Make a row for each rule, with false alarms and recall, and one for images learnt from, as a warning."""
    rows = []
    for name, rule in RULES.items():
        row = [name]
        for scores in models.values():
            row += outcome(rule, scores, rate, "held_out")
        rows.append(row)
    rows.append(["without outliers, only from images learnt from"])
    for scores in models.values():
        rows[-1] += outcome(RULES["the same, without outliers"], scores, rate, "training")
    headings = ["rule", *(f"{name}: {what}" for name in models for what in ("false alarms", "recall"))]
    return markdown(headings, rows)


def outcome(rule: Rule, models: list[Scores], rate: float, source: str) -> list[str]:
    """Mean over models, and samples of the images if there are many, of false alarms and recall."""
    generator = np.random.default_rng(0)
    false_alarms, recalls = [], []
    for scores in models:
        held_out = np.array(getattr(scores, source))
        repeats = SAMPLES if len(held_out) > 4 * SAMPLE else 1
        for _ in range(repeats):
            seen, learnt = held_out, np.array(scores.training)
            if repeats > 1:
                seen = generator.choice(held_out, SAMPLE, replace=False)
                learnt = generator.choice(learnt, SAMPLE, replace=False)
            threshold = rule(seen, learnt, rate)
            false_alarms.append(np.mean(np.array(scores.good) > threshold))
            recalls.append(np.mean(np.array(scores.anomalous) > threshold))
    return [f"{100 * statistics.mean(values):.1f} %" for values in (false_alarms, recalls)]


if __name__ == "__main__":
    auto_cli(decisions)
