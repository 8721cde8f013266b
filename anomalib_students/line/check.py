"""Deployment validation: does an exported model decide as the trained one, and how fast?"""

import time
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import psutil

from .inspection import inspect
from .model import LineModel, Prediction
from .sources import Item, decode

MOST = 200  # Images that are compared, taken evenly from all.
Predict = Callable[[np.ndarray], Prediction]


def predictor_of(path: Path, model_class: str = "UninformedStudents") -> tuple[Any, Predict]:
    """Load an export, or a checkpoint of one of anomalib's models: the model, and a function that scores an image."""
    if path.suffix != ".ckpt":
        model = LineModel(path, hint="LATENCY", precision="f32")
        return model, model.predict
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    import anomalib.models
    import torch

    try:
        kind = getattr(anomalib.models, model_class)
        names = {"teacher": None, "pre_trained": False}  # The weights are in the checkpoint.
        unread = {name: value for name, value in names.items() if name in signature(kind).parameters}
        trained = kind.load_from_checkpoint(path, map_location="cpu", **unread).eval()
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of {model_class}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def predict(image: np.ndarray) -> Prediction:
        batch = trained(torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)))
        maps = (None if each is None else each.numpy().squeeze() for each in (batch.anomaly_map, batch.pred_mask))
        return Prediction(float(batch.pred_score), bool(batch.pred_label), *maps)

    return trained, predict


def check(models: Sequence[Path], items: Sequence[Item], reference: Predict | None = None) -> Iterator[dict[str, Any]]:
    """Say for each model and precision what differs from a reference, by default the first model in float32."""
    items = items[:: -(-len(items) // MOST)]
    expected = list(map(reference or predictor_of(models[0])[1], map(decode, items)))
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for path in models:
        is_quantised = any(node.get_type_name() == "FakeQuantize" for node in LineModel(path).graph.get_ops())
        for precision in [None] if is_quantised else ["f32", "bf16"][: 1 + has_bf16]:
            yield {"model": path.name, "precision": precision or "int8", **_compare(path, precision, items, expected)}


def _compare(path: Path, precision: str | None, items: Sequence[Item], expected: list[Prediction]) -> dict[str, Any]:
    model = LineModel(path, hint="LATENCY", precision=precision)
    seconds, scores, maps, flips = [], [], [], []
    for image, theirs in zip(map(decode, items), expected, strict=True):
        model.predict(image)  # It may be compiled for a new shape.
        start = time.perf_counter()
        ours = model.predict(image)
        seconds.append(time.perf_counter() - start)
        scores.append(abs(ours.score - theirs.score))
        one, other = ours.anomaly_map, theirs.anomaly_map
        if one is not None and other is not None and one.shape == other.shape:
            maps.append((float(np.abs(one - other).max()), float(np.abs(one - other).mean())))
        flips += [abs(theirs.score - 0.5)] * (ours.is_anomalous != theirs.is_anomalous)
    before = psutil.Process().memory_info().rss
    many = LineModel(path, precision=precision)
    many.predict(image)
    start = time.perf_counter()
    rate = sum(1 for _ in inspect(many, items)) / (time.perf_counter() - start)
    return {
        "images": len(items),
        "difference of scores, largest": max(scores),
        "difference of scores, mean": float(np.mean(scores)),
        "difference of maps, largest": max((largest for largest, _ in maps), default=None),
        "difference of maps, mean": float(np.mean(maps, axis=0)[1]) if maps else None,
        "flipped labels": len(flips),
        "nearest flip to 0.5": min(flips, default=None),
        "latency in ms, median": 1000 * float(np.median(seconds)),
        "latency in ms, p95": 1000 * float(np.quantile(seconds, 0.95)),
        "images a second": rate,
        "size in MB": sum(each.stat().st_size for each in {path, path.with_suffix(".bin")} if each.is_file()) / 2**20,
        "memory in MB": (psutil.Process().memory_info().rss - before) / 2**20,
        "input": "{} x {}".format(*model.fixed_size) if model.fixed_size else "any size",
    }
