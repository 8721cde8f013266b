"""A new threshold from good images of today's camera, without a training."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.utils.serialization import anomalib_safe_globals
from openvino import opset13 as ops

from anomalib_students.false_alarms import fit_gumbel, is_usual, margin
from anomalib_students.files import replace_file

from .check import predictor_of
from .drift import image_statistics, summarise
from .model import LineModel, save_model
from .sources import Item, decode


class Scale(NamedTuple):
    """How scores are normalised: the mode of good images, ``location``, becomes 0.25, and the threshold 0.5."""

    location: float
    distance: float

    def restore(self, scores: Any, absolute: Any = np.abs) -> Any:  # noqa: ANN401
        """Return scores as before they were normalised, or a node that computes them."""
        # Nodes compute with arrays of their type, not with numbers.
        location, distance, half, one, over = (np.array(v, np.float32) for v in (*self, 0.5, 1, 1 + 1e-6))
        centred = (scores - half) / half
        return (centred / (over - absolute(centred)) + one) * distance + location

    def normalise(self, scores: Any, absolute: Any = np.abs) -> Any:  # noqa: ANN401
        """Normalise scores as ``FalseAlarmPostProcessor``, or return a node that does."""
        location, distance, half, one = (np.array(v, np.float32) for v in (*self, 0.5, 1))
        steps = (scores - location) / distance - one
        return steps / (absolute(steps) + one) * half + half


def adjust(path: Path, good: Sequence[Item], rate: float = 0.01, bad: Sequence[Item] = ()) -> dict[str, Any]:
    """Write a model with a threshold from good images beside the old one, ``*_adjusted``, and say what has changed."""
    model, predict = predictor_of(path)
    is_export, measured = isinstance(model, LineModel), []
    if is_export:
        old = Scale(model.good["location"], model.good["scale"] * model.good["margin"]) if model.good else None
    else:
        half = float(model.post_processor.image_max - model.post_processor.image_min) / 2
        old = Scale(float(model.post_processor.image_threshold) - half, half)
    for image in map(decode, good):
        score, label, anomaly_map, _ = predict(image)
        measured.append((score, label, score if anomaly_map is None else anomaly_map.max(), image_statistics(image)))
    found = np.array([predict(decode(item))[:2] for item in bad])  # Before a checkpoint's model gets the new threshold.
    scores, labels, peaks = np.array([row[:-1] for row in measured], dtype=float).T
    restore = old.restore if old else np.asarray
    scores = restore(scores)
    usual = is_usual(torch.from_numpy(scores)).numpy()
    margins = margin(int(usual.sum()), rate)
    new = {}
    # Pixels of other models have a scale of their own.
    for name, values in (("anomaly_map", scores if old else peaks), ("pred_score", scores)):
        location, scale = fit_gumbel(torch.from_numpy(values[usual]))
        new[name] = Scale(location, margins.scales * scale)
        # Other models cut scores off at 0 and 1.
        if scale <= 0 or (old is None and sum(new[name]) >= 1):
            raise ValueError(f"Scores up to {values.max():.3f} show no threshold: try a larger --rate.")
    normalised = new["pred_score"].normalise(scores)
    rows = [{**measured[i][-1], "score": float(normalised[i])} for i in np.flatnonzero(usual)]
    known = {"margin": margins.scales, "location": location, "scale": scale, "statistics": summarise(rows)}
    new_path = path.with_name(f"{path.stem}_adjusted{'.xml' if is_export else path.suffix}")
    if is_export:
        _save_export(new_path, model, old, new, known)
    else:
        _save_checkpoint(path, new_path, model, scores, rate, known)
    threshold = sum(new["pred_score"])
    changes = {
        "model": new_path.name,
        "good images": len(good),
        "of these, outliers": int(len(good) - usual.sum()),
        "threshold, formerly 0.5": float(old.normalise(threshold) if old else threshold),
        "false alarms before": float(labels.mean()),
        "false alarms expected": rate,
        "90 % interval": f"{margins.lower:.4f} to {margins.upper:.4f}",
    }
    if bad:
        changes["found of the bad before"] = float(found[:, 1].mean())
        changes["found of the bad now"] = float((restore(found[:, 0]) > threshold).mean())
    return changes


def _save_export(path: Path, model: LineModel, old: Scale | None, new: dict[str, Scale], known: dict[str, Any]) -> None:
    """Append to the scores of the graph what moves them, and decide by them."""
    results = {name: node for node in model.graph.get_results() for name in node.input_value(0).names}
    for score, decision in (("pred_score", "pred_label"), ("anomaly_map", "pred_mask")):
        if score in results:
            scores = ops.convert(results[score].input_value(0), "f32")
            moved = new[score].normalise(old.restore(scores, ops.abs) if old else scores, ops.abs)
            for name in {score, decision} & results.keys():
                node = moved if name == score else ops.greater(moved, np.float32(0.5))
                source = results[name].input_value(0)
                source.set_names(source.names - {name})
                node.output(0).set_names({name})
                results[name].input(0).replace_source_output(node.output(0))
    model.graph.validate_nodes_and_infer_types()
    save_model(path, known, model.graph)


def _save_checkpoint(path: Path, new_path: Path, trained: Any, scores: np.ndarray, rate: float, known: Any) -> None:  # noqa: ANN401
    """Choose the threshold as a training does."""
    own = trained.post_processor
    own.false_alarm_rate, own.statistics = rate, known["statistics"]
    own.choose(torch.from_numpy(scores))
    with anomalib_safe_globals(extra=trained.checkpoint_safe_globals()):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint["state_dict"].update(trained.state_dict())
    checkpoint["callbacks"][own.state_key] = own.state_dict()
    checkpoint["anomalib_post_processor_config"] = own.checkpoint_config()
    torch.save(checkpoint, content := io.BytesIO())
    replace_file(new_path, content.getvalue())
