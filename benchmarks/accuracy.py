"""Measure what faster arithmetic and a coarser output stride cost in accuracy.

A trained model is tested on all test images of a category as the engine would test it, in PyTorch in float32, and as it
is exported to OpenVINO: in float32, bfloat16, and quantised to 8 bits with images of the same category.

    python benchmarks/accuracy.py --checkpoint path/to/model.ckpt --root datasets/MVTecAD --category pill
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args

import openvino
import torch
from anomalib.data import ImageBatch, MVTec
from anomalib.deploy import CompressionType
from anomalib.models import UninformedStudents
from jsonargparse import auto_cli
from measuring import machine
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_students.model.metrics import create_metrics

Way = Literal["PyTorch f32", "OpenVINO f32", "OpenVINO bf16", "OpenVINO int8", "OpenVINO int8, rest f32"]


class Prediction(NamedTuple):
    """Anomaly maps of shape ``(B, 1, H, W)`` and scores of shape ``(B,)``."""

    anomaly_map: torch.Tensor
    pred_score: torch.Tensor


def accuracy(
    checkpoint: Path,
    root: Path,
    category: str = "pill",
    output_strides: tuple[int, ...] = (4,),
    ways: tuple[Way, ...] = get_args(Way),
) -> None:
    """Print the metrics of each way, their differences from the first, and the time for an image.

    Args:
        checkpoint: Checkpoint of a trained model.
        root: Folder of MVTec AD.
        category: Category to test on.
        output_strides: Distances in pixels between scored pixels.
        ways: Ways to run the model. Unquantised layers are computed in bfloat16 if the processor has it, else float32.
    """
    datamodule = MVTec(root=root, category=category, eval_batch_size=1, num_workers=0)
    datamodule.setup()
    table = Table(title=f"{category}, {machine(torch.device('cpu'))}")
    names = [metric.name for metric in create_metrics()]
    for heading in ("output stride", "way", *names, *(f"{name}, difference" for name in names), "ms an image"):
        table.add_column(heading, justify="right")
    first: list[float] = []
    for output_stride in output_strides:
        model = UninformedStudents.load_from_checkpoint(checkpoint).eval()
        model.model.output_stride = output_stride
        for way in ways:
            with TemporaryDirectory() as folder:
                predict = prepare(model, way, datamodule, Path(folder))
            values, seconds = measure(model, predict, datamodule, f"stride {output_stride}, {way}")
            first = first or values
            differences = (f"{value - reference:+.4f}" for value, reference in zip(values, first, strict=True))
            figures = (f"{value:.4f}" for value in values)
            table.add_row(str(output_stride), way, *figures, *differences, f"{1e3 * seconds:.0f}")
    Console(width=160).print(table)


def prepare(
    model: UninformedStudents, way: Way, datamodule: MVTec, folder: Path
) -> Callable[[torch.Tensor], Prediction]:
    """Make the function that predicts."""
    if way == "PyTorch f32":
        return partial(predict_in_pytorch, model)
    settings = {} if way.endswith("int8") else {"INFERENCE_PRECISION_HINT": way.split()[-1]}
    quantisation = {}
    if "int8" in way:
        quantisation = {"compression_type": CompressionType.INT8_PTQ, "datamodule": datamodule}
    exported = model.to_openvino(folder, **quantisation)
    return partial(predict_in_openvino, openvino.Core().compile_model(exported, "CPU", settings))


@torch.inference_mode()
def predict_in_pytorch(model: UninformedStudents, images: torch.Tensor) -> Prediction:
    """Predict as the engine does."""
    prediction = model(images)
    return Prediction(prediction.anomaly_map, prediction.pred_score)


def predict_in_openvino(compiled: openvino.CompiledModel, images: torch.Tensor) -> Prediction:
    """Predict with the exported model."""
    outputs = compiled(images.numpy())
    return Prediction(torch.from_numpy(outputs["anomaly_map"]), torch.from_numpy(outputs["pred_score"]))


def measure(
    model: UninformedStudents, predict: Callable[[torch.Tensor], Prediction], datamodule: MVTec, description: str
) -> tuple[list[float], float]:
    """Test on all images: the metrics, and the seconds of a prediction."""
    metrics = create_metrics()
    seconds = 0.0
    loader = datamodule.test_dataloader()
    for batch in track(loader, description=description):
        start = time.perf_counter()
        prediction = predict(batch.image)
        seconds += time.perf_counter() - start
        # The masks in the size of the maps, as the engine has them.
        images, masks = model.pre_processor.transform(batch.image, batch.gt_mask)
        scored = ImageBatch(image=images, gt_label=batch.gt_label, gt_mask=masks, **prediction._asdict())
        for metric in metrics:
            metric.update(scored)
    return [float(metric.compute()) for metric in metrics], seconds / len(loader)


if __name__ == "__main__":
    auto_cli(accuracy, as_positional=False)
