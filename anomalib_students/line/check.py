"""Deployment validation: does an exported model decide as the trained one, and how fast?"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from .inspection import inspect
from .model import LineModel, Prediction
from .sources import Item, decode

__all__ = ["check", "predictor_of"]

MOST = 200  # Images that are compared, taken evenly from all.
Predict = Callable[[np.ndarray], Prediction]


def predictor_of(checkpoint: Path, model: str = "UninformedStudents") -> tuple[Any, Predict]:
    """Load a checkpoint of one of anomalib's models: the model, and a function as :meth:`LineModel.predict`."""
    import torch
    from anomalib.models import get_model

    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {checkpoint}.")
    # The weights are in the checkpoint.
    arguments: dict[str, Any] = {"teacher": None} if model == "UninformedStudents" else {"pre_trained": False}
    try:
        kind = type(get_model(model, **arguments))
        trained = kind.load_from_checkpoint(checkpoint, map_location="cpu", **arguments).eval()
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{checkpoint} is no checkpoint of {model}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def predict(image: np.ndarray) -> Prediction:
        batch = trained(torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)))
        maps = (None if each is None else each.numpy().squeeze() for each in (batch.anomaly_map, batch.pred_mask))
        return Prediction(float(batch.pred_score), bool(batch.pred_label), *maps)

    return trained, predict


def check(models: Sequence[Path], items: Sequence[Item], reference: Predict | None = None) -> Iterator[dict[str, Any]]:
    """Compare exported models with a reference on images, of which at most 200 are taken.

    Args:
        models: Exported models; those that are not quantised are checked in each precision that the processor has.
        items: Images.
        reference: Function that returns what is expected of an image; by default the first model in float32.

    Yields:
        What differs and what it costs, by name, for each model and precision.
    """
    items = items[:: -(-len(items) // MOST)]
    expected = list(map(reference or LineModel(models[0], hint="LATENCY", precision="f32").predict, map(decode, items)))
    precisions = (
        ["f32", "bf16"] if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ["f32"]
    )
    for path in models:
        is_quantised = any(node.get_type_name() == "FakeQuantize" for node in LineModel(path).graph.get_ops())
        for precision in [None] if is_quantised else precisions:
            yield {"model": path.name, "precision": precision or "int8", **_compare(path, precision, items, expected)}


def _compare(path: Path, precision: str | None, items: Sequence[Item], expected: list[Prediction]) -> dict[str, Any]:
    before = _memory()
    model = LineModel(path, hint="LATENCY", precision=precision)
    shapes, seconds, scores, flips, maps = set(), [], [], [], []
    for item, theirs in zip(items, expected, strict=True):
        image = decode(item)
        if image.shape not in shapes:
            # The model is compiled for a new shape.
            model.predict(image)
            shapes.add(image.shape)
        start = time.perf_counter()
        ours = model.predict(image)
        seconds.append(1000 * (time.perf_counter() - start))
        scores.append(abs(ours.score - theirs.score))
        one, other = ours.anomaly_map, theirs.anomaly_map
        if one is not None and other is not None and one.shape == other.shape:
            difference = np.abs(one - other)
            maps.append((difference.max(), difference.mean()))
        if ours.is_anomalous != theirs.is_anomalous:
            flips.append(abs(theirs.score - 0.5))
    memory, many = _memory() - before, LineModel(path, precision=precision)
    many.predict(image)
    start = time.perf_counter()
    rate = sum(1 for _ in inspect(many, items)) / (time.perf_counter() - start)
    size = sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.is_file()) / 2**20
    return {
        "images": len(items),
        "largest difference of scores": max(scores),
        "mean difference of scores": float(np.mean(scores)),
        "largest difference of maps": float(max(largest for largest, _ in maps)) if maps else None,
        "mean difference of maps": float(np.mean([mean for _, mean in maps])) if maps else None,
        "flipped labels": len(flips),
        "nearest flip to 0.5": min(flips, default=None),
        "median latency, ms": float(np.median(seconds)),
        "p95 latency, ms": float(np.quantile(seconds, 0.95)),
        "images a second": rate,
        "memory, MB": memory,
        "size, MB": size,
        "input": "{} x {}".format(*model.fixed_size) if model.fixed_size else "any size",
    }


def _memory() -> float:
    """Memory of this process in MB; NaN on systems that have no ``/proc``."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return float("nan")
