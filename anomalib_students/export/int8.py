"""Quantised models (``--compression_type int8_ptq`` and ``int8_acq``): only students compute in 8 bits."""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import nncf
import openvino
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.metrics import F1Score
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric
from torchvision.transforms.v2 import functional

IMAGE_CHANNELS = 3
CALIBRATION_IMAGES = 32  # Most images that calibrate a quantisation: each has tens of thousands of patches.
COMPARED_IMAGES = 8  # Most images whose scores are compared.


def quantise(model: openvino.Model, datamodule: AnomalibDataModule) -> openvino.Model:
    """Quantise the convolutions of an OpenVINO model's students to 8 bits, except the first of each network.

    They take most of the time. Scores are small differences of large numbers, and would lose accuracy. With the first
    convolutions, the resizing of the image would be quantised too. A teacher's rounding is an error that no student has
    learnt to expect, so that good images would score higher, and where its features are cut off, defects lower. Images
    of the data module calibrate.
    """
    return nncf.quantize(model, **_settings(model, datamodule))


def quantise_controlled(
    model: openvino.Model, datamodule: AnomalibDataModule, metric: Metric | None, max_drop: float
) -> openvino.Model:
    """Quantise, except convolutions that cost more than ``max_drop`` of a metric of test images, by default F1."""
    datamodule.setup("test")
    tested = datamodule.test_data
    if not tested.has_anomalous:
        raise ValueError("INT8_ACQ measures detection on test images, of which none is anomalous: choose INT8_PTQ.")
    measured = metric or F1Score(fields=["pred_label", "gt_label"])

    def measure(compiled: openvino.CompiledModel, batches: Iterable[ImageBatch]) -> tuple[float, None]:
        measured.reset()
        for batch in batches:
            for output, value in compiled(_input(model, batch)).items():
                setattr(batch, output.any_name, torch.from_numpy(value))
            if batch.gt_mask is not None and batch.pred_mask is not None:
                batch.gt_mask = functional.resize_mask(batch.gt_mask, list(batch.pred_mask.shape[-2:]))
            measured.update(batch)
        return float(measured.compute()), None

    images = nncf.Dataset(DataLoader(tested, collate_fn=tested.collate_fn))
    accuracy = {"validation_dataset": images, "validation_fn": measure, "max_drop": max_drop}
    return nncf.quantize_with_accuracy_control(model, **accuracy, **_settings(model, datamodule))


@torch.no_grad()
def largest_difference(quantised: openvino.Model, model: nn.Module, datamodule: AnomalibDataModule) -> float:
    """Largest difference between the scores of a model, set to evaluation, and a quantised one, relative above 1."""
    model.eval()
    weight = next(model.parameters())
    compiled = openvino.compile_model(quantised, "CPU")
    images = [_input(quantised, batch) for batch in _images(datamodule, COMPARED_IMAGES)]
    scores = torch.cat([model(image.to(weight)).pred_score.flatten().cpu() for image in images])
    quantised_scores = torch.cat([torch.from_numpy(compiled(image)["pred_score"]).flatten() for image in images])
    return float(((quantised_scores - scores).abs() / scores.abs().clamp_min(1)).max())


def _images(datamodule: AnomalibDataModule, number: int) -> DataLoader[ImageBatch]:
    """Load at most ``number`` images spread over the validation data, or else the training data, one per batch."""
    datamodule.setup("fit")
    dataset = getattr(datamodule, "val_data", datamodule.train_data)
    number = min(len(dataset), number)
    # Data sets are sorted by the type of the defect.
    chosen = Subset(dataset, [index * len(dataset) // number for index in range(number)])
    return DataLoader(chosen, collate_fn=dataset.collate_fn)


def _settings(model: openvino.Model, datamodule: AnomalibDataModule) -> dict[str, Any]:
    """Arguments of NNCF: only students' convolutions after the first are quantised, and what is between them."""
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    first = [node for node in convolutions if node.input_value(1).get_shape()[1] == IMAGE_CHANNELS]
    # Each bias is an operation that follows its convolution.
    biases = {
        user.get_node().get_friendly_name() for node in convolutions for user in node.output(0).get_target_inputs()
    }
    quantised = (biases | _with_inputs(convolutions)) - _with_inputs(first)
    quantised -= {node.get_friendly_name() for node in model.get_ops() if _is_of_teacher(node)}
    others = {node.get_friendly_name() for node in model.get_ops()} - quantised
    images = _images(datamodule, CALIBRATION_IMAGES)
    return {
        "calibration_dataset": nncf.Dataset(images, partial(_input, model)),
        # Leaky rectified linear units make few negative values, on which symmetric steps would waste one bit of eight.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "ignored_scope": nncf.IgnoredScope(names=sorted(others), validate=False),
    }


def _is_of_teacher(node: openvino.Node) -> bool:
    """Whether a node is a convolution of a teacher; only these have depthwise ones."""
    if node.get_type_name() == "Convolution":
        return ".teacher." in node.input_value(1).get_node().get_friendly_name()
    return node.get_type_name() == "GroupConvolution"


def _input(model: openvino.Model, batch: ImageBatch) -> torch.Tensor:
    """Images of a batch, in the size of the model's input if that is fixed."""
    images = cast("torch.Tensor", batch.image)
    sides = model.input(0).partial_shape[2:]
    return images if sides.is_dynamic else functional.resize(images, list(sides.to_shape()), antialias=True)


def _with_inputs(nodes: list[openvino.Node]) -> set[str]:
    """Names of nodes and of all that they are computed from."""
    names: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            waiting += [value.get_node() for value in node.input_values()]
    return names
