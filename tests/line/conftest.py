"""A model with known scores: the brightness of each pixel, and the largest of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops


def save_model(
    path: Path, size: tuple[int, int] = (-1, -1), good: dict[str, Any] | None = None, add: float = 0
) -> Path:
    image = ops.parameter([-1, 3, *size], np.float32, name="input")
    brightness = ops.add(ops.reduce_mean(image, np.array([1]), keep_dims=True), np.float32(add))
    largest = ops.reduce_max(brightness, np.array([1, 2, 3]))
    outputs = {
        "pred_score": largest,
        "pred_label": ops.greater(largest, np.float32(0.5)),
        "anomaly_map": brightness,
        "pred_mask": ops.greater(brightness, np.float32(0.5)),
    }
    for name, node in outputs.items():
        node.output(0).set_names({name})
    model = openvino.Model(list(outputs.values()), [image])
    if good is not None:
        model.set_rt_info(json.dumps(good), "anomalib_students")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.xml")
