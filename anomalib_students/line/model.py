"""An exported model in OpenVINO: any of anomalib's exports, with what ours say about good images."""

import json
import queue
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino

__all__ = ["LineModel", "Prediction", "write_metadata"]

METADATA = "anomalib_students"
"""Entry of the run-time information of our exports: JSON with statistics of good images."""
COMPILED_SIZES = 4
"""Image sizes that the model is compiled for; images of further sizes share a slower model of variable size."""
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")

Size = tuple[int, int] | None


class Prediction(NamedTuple):
    """What a model returns for an image.

    Attributes:
        score: Score of the image; above 0.5 it is anomalous.
        is_anomalous: Decision of the model.
        anomaly_map: Scores of the pixels that the networks see, of shape ``(h, w)``; None if the model has no map.
        mask: Anomalous ones of these, booleans of shape ``(h, w)``; None if the model has no mask.
    """

    score: float
    is_anomalous: bool
    anomaly_map: np.ndarray | None
    mask: np.ndarray | None


class LineModel:
    """A model that anomalib has exported to OpenVINO or ONNX, for several threads at once.

    Args:
        path: Exported file, ``*.xml`` or ``*.onnx``.
        device: Device of OpenVINO.
        hint: ``"THROUGHPUT"`` for many images, ``"LATENCY"`` for one at a time.
        precision: ``"f32"`` or ``"bf16"``; OpenVINO's choice by default.

    Attributes:
        good: What our exports carry of good images: ``margin``, the distance of the threshold from the mode of their
            scores, in scales of Gumbel's distribution; empty for other models.
        fixed_size: Height and width that the model was exported for; None if it takes any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no export of an anomaly model.
    """

    def __init__(
        self, path: str | Path, device: str = "CPU", hint: str = "THROUGHPUT", precision: str | None = None
    ) -> None:
        self._core = openvino.Core()
        self._device = device
        self._config = {"PERFORMANCE_HINT": hint, **({"INFERENCE_PRECISION_HINT": precision} if precision else {})}
        self._model = _read(self._core, Path(path))
        self._names = [name for name in OUTPUTS if name in _output_names(self._model)]
        has_metadata = self._model.has_rt_info(METADATA)
        self.good: dict[str, Any] = json.loads(self._model.get_rt_info(METADATA).astype(str)) if has_metadata else {}
        shape = self._model.input(0).partial_shape
        is_fixed = shape[2].is_static and shape[3].is_static
        self.fixed_size: Size = (shape[2].get_length(), shape[3].get_length()) if is_fixed else None
        self._compiled: dict[Size, tuple[openvino.CompiledModel, queue.SimpleQueue]] = {}
        self._lock = threading.Lock()

    @property
    def n_requests(self) -> int:
        """Number of images that are best scored at the same time."""
        with self._lock:
            return int(self._compile(self.fixed_size)[0].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def predict(self, image: np.ndarray) -> Prediction:
        """Score an RGB image of shape ``(H, W, 3)`` and type uint8; a model of fixed size takes only that."""
        size: Size = (image.shape[0], image.shape[1])
        if size not in self._compiled and len(self._compiled) > COMPILED_SIZES:
            size = None
        batch = np.ascontiguousarray(image[None])
        # One thread at a time: OpenVINO's first tensors of two threads can wait for each other for ever.
        with self._lock:
            compiled, idle = self._compile(size)
            request = compiled.create_infer_request() if idle.empty() else idle.get()
            request.set_input_tensor(openvino.Tensor(batch))
        try:
            request.infer()
            outputs = {name: request.get_tensor(name).data.copy() for name in self._names}
        finally:
            idle.put(request)
        anomaly_map, mask = outputs.get("anomaly_map"), outputs.get("pred_mask")
        score = float(outputs["pred_score" if "pred_score" in outputs else "anomaly_map"].max())
        return Prediction(
            score,
            bool(np.max(outputs["pred_label"])) if "pred_label" in outputs else score > 0.5,
            None if anomaly_map is None else anomaly_map.reshape(anomaly_map.shape[-2:]),
            None if mask is None else mask.reshape(mask.shape[-2:]).astype(bool),
        )

    def _compile(self, size: Size) -> tuple[openvino.CompiledModel, queue.SimpleQueue]:
        """Compile the model for images of a size, or of any, that have shape ``(1, H, W, 3)`` and type uint8."""
        if size not in self._compiled:
            steps = openvino.preprocess.PrePostProcessor(self._model.clone())
            steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
            steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
            steps.input().model().set_layout(openvino.Layout("NCHW"))
            model = steps.build()
            if size is not None:
                model.reshape([1, *size, 3])
            compiled = self._core.compile_model(model, self._device, self._config)
            self._compiled[size] = compiled, queue.SimpleQueue()
        return self._compiled[size]


def write_metadata(path: Path, good: dict[str, Any]) -> None:
    """Add statistics of good images to an exported model."""
    model = openvino.Core().read_model(path)
    model.set_rt_info(json.dumps(good), METADATA)
    described = path.with_name(f"described_{path.name}")
    openvino.save_model(model, described, compress_to_fp16=False)
    for suffix in (".bin", ".xml"):
        described.with_suffix(suffix).replace(path.with_suffix(suffix))


def _read(core: openvino.Core, path: Path) -> openvino.Model:
    if not path.is_file():
        msg = f"There is no model at {path}."
        raise FileNotFoundError(msg)
    if path.suffix not in {".xml", ".onnx"}:
        msg = f"A model is a file named *.xml or *.onnx, as `anomalib export` writes it, not {path}."
        raise ValueError(msg)
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        msg = f"OpenVINO cannot read the model {path}: {str(error).strip().splitlines()[-1]}"
        raise ValueError(msg) from error
    if not {"pred_score", "anomaly_map"} & _output_names(model):
        msg = f"{path} is no anomaly model: none of its outputs is named pred_score or anomaly_map."
        raise ValueError(msg)
    return model


def _output_names(model: openvino.Model) -> set[str]:
    return {name for port in model.outputs for name in port.names}
