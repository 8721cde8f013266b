"""A new threshold from good images of today's camera, without a training."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.utils.serialization import anomalib_safe_globals
from openvino import opset13 as ops

from anomalib_students.files import replace_file
from anomalib_students.model.false_alarms import fit_gumbel, is_usual, margin

from .check import Predict, predictor_of
from .drift import image_statistics, summarise
from .model import METADATA, LineModel, save_model
from .sources import Item, decode

__all__ = ["adjust"]

# Nodes of a graph compute with these.
HALF, ONE, NEARLY_ONE = (np.array(value, np.float32) for value in (0.5, 1, 1 + 1e-6))


class Scale(NamedTuple):
    """How scores are normalised: the mode of good images, ``location``, becomes 0.25, and the threshold 0.5."""

    location: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, location: float, distance: float) -> "Scale":
        """Make a scale of numbers."""
        return cls(np.array(location, np.float32), np.array(distance, np.float32))

    def restore(self, scores: Any, absolute: Any = np.abs) -> Any:  # noqa: ANN401
        """Return scores as before they were normalised; a node for a node."""
        centred = (scores - HALF) / HALF
        return (centred / (NEARLY_ONE - absolute(centred)) + ONE) * self.distance + self.location

    def normalise(self, scores: Any, absolute: Any = np.abs) -> Any:  # noqa: ANN401
        """Normalise scores as ``FalseAlarmPostProcessor``."""
        steps = (scores - self.location) / self.distance - ONE
        return steps / (absolute(steps) + ONE) * HALF + HALF


def adjust(path: Path, good: Sequence[Item], rate: float = 0.01, bad: Sequence[Item] = ()) -> dict[str, Any]:
    """Write a model with a threshold from good images beside the old one, as ``*_adjusted.xml`` or ``*_adjusted.ckpt``.

    Args:
        path: Export of any of anomalib's models, or checkpoint of ours.
        good: Good images.
        rate: Fraction of good images that may be called anomalous, in ``(0, 1)``.
        bad: Anomalous images, to say what the threshold changes for them.

    Returns:
        What has changed, by name.

    Raises:
        ValueError: If the rate is out of range, a file cannot be read, or the scores show no threshold.
    """
    model, predict = predictor_of(path) if path.suffix == ".ckpt" else _exported(path)
    old = _scale_of(model)
    restore = old.restore if old else np.asarray
    statistics, measured = [], []
    for image in map(decode, good):
        statistics.append(image_statistics(image))
        score, is_anomalous, anomaly_map, _ = predict(image)
        measured.append((score, is_anomalous, score if anomaly_map is None else float(anomaly_map.max())))
    scores, labels, peaks = np.array(measured, dtype=float).T
    scores = restore(scores)
    usual = is_usual(torch.from_numpy(scores)).numpy()
    scales, lower, upper = margin(int(usual.sum()), rate)
    new, scale = _fit(scores[usual], scales, old)
    # Pixels of other models have a scale of their own.
    of_maps = new if old else _fit(peaks[usual], scales, old)[0]
    rows = [{**statistics[i], "score": float(new.normalise(scores[i]))} for i in np.flatnonzero(usual)]
    known = {"margin": scales, "location": float(new.location), "scale": scale, "statistics": summarise(rows)}
    if isinstance(model, LineModel):
        new_path = _save_export(path, model, old, new, of_maps, known)
    else:
        new_path = _save_checkpoint(path, model, scores, rate, known)
    threshold = new.location + new.distance
    found = np.array([predict(decode(item))[:2] for item in bad]).reshape(-1, 2)
    return {
        "model": new_path.name,
        "good images": len(good),
        "of these, outliers": int(len(good) - usual.sum()),
        "threshold, formerly 0.5": float(old.normalise(threshold) if old else threshold),
        "false alarms before": float(labels.mean()),
        "false alarms expected": rate,
        "90 % interval": f"{lower:.4f} to {upper:.4f}",
        **({"found of the bad before": float(found[:, 1].mean())} if bad else {}),
        **({"found of the bad now": float((restore(found[:, 0]) > threshold).mean())} if bad else {}),
    }


def _exported(path: Path) -> tuple[LineModel, Predict]:
    model = LineModel(path, hint="LATENCY", precision="f32")
    return model, model.predict


def _scale_of(model: Any) -> Scale | None:  # noqa: ANN401
    """How a model normalises scores; None for an export without our statistics."""
    if isinstance(model, LineModel):
        good = model.good
        return Scale.of(good["location"], good["scale"] * good["margin"]) if good else None
    half = (model.post_processor.image_max - model.post_processor.image_min) / 2
    return Scale.of(model.post_processor.image_threshold - half, half)


def _fit(scores: np.ndarray, scales: float, old: Scale | None) -> tuple[Scale, float]:
    """Fit a scale with a threshold to scores of good images."""
    location, scale = fit_gumbel(torch.from_numpy(scores))
    # Other models cut scores off at 0 and 1.
    if scale <= 0 or (old is None and location + scales * scale >= 1):
        msg = f"The scores of good images, {scores.min():.3g} to {scores.max():.3g}, show no threshold."
        raise ValueError(msg)
    return Scale.of(location, scales * scale), scale


def _save_export(
    path: Path, model: LineModel, old: Scale | None, new: Scale, of_maps: Scale, known: dict[str, Any]
) -> Path:
    """Append to the scores of the graph what moves them, and decide by them."""
    results = {name: node for node in model.graph.get_results() for name in node.input_value(0).names}
    for score, decision, scale in (("pred_score", "pred_label", new), ("anomaly_map", "pred_mask", of_maps)):
        if score not in results:
            continue
        scores = ops.convert(results[score].input_value(0), "f32")
        moved = scale.normalise(old.restore(scores, ops.abs) if old else scores, ops.abs)
        for name, node in ((score, moved), (decision, ops.greater(moved, HALF))):
            if name in results:
                source = results[name].input_value(0)
                source.set_names(source.names - {name})
                node.output(0).set_names({name})
                results[name].input(0).replace_source_output(node.output(0))
    model.graph.validate_nodes_and_infer_types()
    model.graph.set_rt_info(json.dumps(known), METADATA)
    save_model(model.graph, new_path := path.with_name(f"{path.stem}_adjusted.xml"))
    return new_path


def _save_checkpoint(path: Path, trained: Any, scores: np.ndarray, rate: float, known: dict[str, Any]) -> Path:  # noqa: ANN401
    """Choose the threshold as after a training."""
    own = trained.post_processor
    own.false_alarm_rate, own.statistics = rate, known["statistics"]
    own.choose(torch.from_numpy(scores))
    with anomalib_safe_globals(extra=trained.checkpoint_safe_globals()):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint["state_dict"].update(trained.state_dict())
    checkpoint["callbacks"][own.state_key] = own.state_dict()
    checkpoint["anomalib_post_processor_config"] = own.checkpoint_config()
    torch.save(checkpoint, content := io.BytesIO())
    replace_file(new_path := path.with_name(f"{path.stem}_adjusted.ckpt"), content.getvalue())
    return new_path
