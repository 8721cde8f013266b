"""An exported model in OpenVINO: any of anomalib's exports, with what ours say about good images."""

import json
import queue
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import openvino
from PIL import Image

METADATA = "anomalib_students"  # Entry of the run-time information of our exports: JSON with statistics of good images.
COMPILED_SIZES = 4  # Images of further sizes share a slower model of variable size.
OUTPUTS = {"pred_score", "pred_label", "anomaly_map", "pred_mask"}


class Prediction(NamedTuple):
    """What a model returns for an image: maps have shape ``(h, w)``, or are None if the model has none."""

    score: float
    is_anomalous: bool
    anomaly_map: np.ndarray | None
    mask: np.ndarray | None


class LineModel:
    """A model that anomalib has exported to OpenVINO or ONNX, for several threads at once.

    Args:
        path: Exported file, ``*.xml`` or ``*.onnx``.
        hint: ``"THROUGHPUT"`` for many images, ``"LATENCY"`` for one at a time.
        precision: ``"f32"`` or ``"bf16"``; OpenVINO's choice by default.
    """

    def __init__(self, path: str | Path, hint: str = "THROUGHPUT", precision: str | None = None) -> None:
        self._config = {"PERFORMANCE_HINT": hint, **({"INFERENCE_PRECISION_HINT": precision} if precision else {})}
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no model at {path}.")
        if Path(path).suffix not in {".xml", ".onnx"}:
            raise ValueError(f"A model is a file named *.xml or *.onnx, as `anomalib export` writes it, not {path}.")
        try:
            self.graph = openvino.Core().read_model(path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"OpenVINO cannot read the model {path}: {reason}") from error
        self._names = OUTPUTS & {name for port in self.graph.outputs for name in port.names}
        if not self._names & {"pred_score", "anomaly_map"}:
            raise ValueError(f"{path} is no anomaly model: none of its outputs is named pred_score or anomaly_map.")
        # The location and scale of good images' scores, the threshold's distance in scales, and statistics of drift.
        has_metadata = self.graph.has_rt_info(METADATA)
        self.good: dict[str, Any] = json.loads(self.graph.get_rt_info(METADATA).astype(str)) if has_metadata else {}
        shape = self.graph.input(0).partial_shape[2:]
        self.fixed_size = None if shape.is_dynamic else tuple(shape.to_shape())  # Height and width; None for any.
        self._compiled: dict[Any, tuple[openvino.CompiledModel, queue.SimpleQueue]] = {}
        self._lock = threading.Lock()

    def predict(self, image: np.ndarray) -> Prediction:
        """Score an RGB image of shape ``(H, W, 3)`` and type uint8, resized if the model takes one size only."""
        if self.fixed_size not in {None, image.shape[:2]}:
            image = np.asarray(Image.fromarray(image).resize(self.fixed_size[::-1], Image.Resampling.BILINEAR))
        batch = np.ascontiguousarray(image[None])
        with self._lock:
            is_one_more = image.shape not in self._compiled and len(self._compiled) >= COMPILED_SIZES
            idle = self._requests(None if is_one_more else image.shape)
        request = idle.get()
        try:
            # One thread at a time: OpenVINO's first tensors of two threads can wait for each other for ever.
            with self._lock:
                request.set_input_tensor(openvino.Tensor(batch))
            request.infer()
            outputs = {name: request.get_tensor(name).data.copy() for name in self._names}
        finally:
            idle.put(request)
        score = float(outputs["pred_score" if "pred_score" in outputs else "anomaly_map"].max())
        is_anomalous = bool(outputs["pred_label"].max()) if "pred_label" in outputs else score > 0.5
        maps = (outputs[name][0].squeeze() if name in outputs else None for name in ("anomaly_map", "pred_mask"))
        return Prediction(score, is_anomalous, *maps)

    def _requests(self, shape: tuple[int, ...] | None) -> queue.SimpleQueue:
        """Compile the model for images of type uint8, of one shape or of any, and return its idle requests."""
        if shape not in self._compiled:
            steps = openvino.preprocess.PrePostProcessor(self.graph.clone())
            steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
            steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
            steps.input().model().set_layout(openvino.Layout("NCHW"))
            graph = steps.build()
            graph.reshape([1, *(shape or (-1, -1, 3))])
            compiled = openvino.Core().compile_model(graph, "CPU", self._config)
            idle = queue.SimpleQueue[openvino.InferRequest]()
            for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
                idle.put(compiled.create_infer_request())
            self._compiled[shape] = compiled, idle
        return self._compiled[shape][1]


def save_model(path: Path, good: dict[str, Any], model: openvino.Model | None = None) -> None:
    """Save a model, by default the one that is there, with statistics of good images, whole or not at all."""
    model = model or openvino.Core().read_model(path)
    model.set_rt_info(json.dumps(good), METADATA)
    with TemporaryDirectory(dir=path.parent, prefix=".model-") as folder:
        openvino.save_model(model, Path(folder, path.name), compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            Path(folder, path.name).with_suffix(suffix).replace(path.with_suffix(suffix))
