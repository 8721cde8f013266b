"""Quantised exports (``--compression_type int8_ptq`` and ``int8_acq``): what is quantised, and how it is calibrated."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import nncf
import openvino
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric
from torchvision.transforms.v2 import functional

__all__ = ["calibration_images", "largest_difference", "quantise", "quantise_controlled"]

IMAGE_CHANNELS = 3
CALIBRATION_IMAGES = 32
"""Most images that calibrate: each has tens of thousands of patches."""
COMPARED_IMAGES = 8
"""Most images whose scores are compared after quantisation."""


def quantise(model: openvino.Model, datamodule: AnomalibDataModule | None) -> openvino.Model:
    """Quantise the convolutions of an OpenVINO model to 8 bits, except the first of each network.

    They take nearly all of the time. Scores are small differences of large numbers, and would lose accuracy. The first
    convolutions are cheap, and would have the resizing of the image quantised too.

    Images of the data module calibrate, resized if the size of the model's input is fixed. Raises a ``ValueError``
    without a data module.
    """
    return nncf.quantize(model, **_settings(model, datamodule))


def quantise_controlled(
    model: openvino.Model, datamodule: AnomalibDataModule | None, metric: Metric, max_drop: float
) -> openvino.Model:
    """Quantise as :func:`quantise`, but no convolutions that cost more than ``max_drop`` of a metric of test images.

    Raises a ``ValueError`` without a data module, or if it has no anomalous test image: nothing is then detected.
    """
    settings = _settings(model, datamodule)
    datamodule = cast("AnomalibDataModule", datamodule)
    datamodule.setup("test")
    tested = datamodule.test_data
    if not tested.has_anomalous:
        msg = "INT8_ACQ measures detection on the test images, none of which is anomalous: take INT8_PTQ."
        raise ValueError(msg)

    def measure(compiled: openvino.CompiledModel, batches: Iterable[ImageBatch]) -> tuple[float, None]:
        metric.reset()
        for batch in batches:
            outputs = compiled(_input(model, batch))
            batch.update(**{output.any_name: torch.from_numpy(value) for output, value in outputs.items()})
            if batch.gt_mask is not None and batch.pred_mask is not None:
                batch.gt_mask = functional.resize_mask(batch.gt_mask, list(batch.pred_mask.shape[-2:]))
            metric.update(batch)
        return float(metric.compute()), None

    return nncf.quantize_with_accuracy_control(
        model,
        settings.pop("calibration_dataset"),
        nncf.Dataset(DataLoader(tested, collate_fn=tested.collate_fn)),
        measure,
        max_drop=max_drop,
        **settings,
    )


def largest_difference(
    model: openvino.Model, reference: Callable[[torch.Tensor], torch.Tensor], datamodule: AnomalibDataModule
) -> float:
    """Largest difference of the scores of a model and of a function of images, on some images of a data module."""
    compiled = openvino.compile_model(model, "CPU")
    images = [_input(model, batch) for batch in calibration_images(datamodule, COMPARED_IMAGES)]
    return max(abs(float(compiled(image)["pred_score"].item()) - float(reference(image))) for image in images)


def _settings(model: openvino.Model, datamodule: AnomalibDataModule | None) -> dict[str, Any]:
    """Arguments of NNCF: what is quantised and how it is calibrated."""
    if datamodule is None:
        msg = (
            "Datamodule must be provided for OpenVINO INT8_PTQ compression: "
            "its images calibrate the model. Name the data, as in --data MVTec."
        )
        raise ValueError(msg)
    images = calibration_images(datamodule, CALIBRATION_IMAGES)
    return {
        "calibration_dataset": nncf.Dataset(images, partial(_input, model)),
        # Leaky rectified linear units make few negative values, on which symmetric steps would waste one bit of eight.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "ignored_scope": _all_but_convolutions(model),
    }


def calibration_images(datamodule: AnomalibDataModule, number: int) -> DataLoader[ImageBatch]:
    """Load ``number`` images spread over the validation data, or the training data if there are none, one per batch."""
    datamodule.setup("fit")
    dataset = getattr(datamodule, "val_data", datamodule.train_data)
    number = min(len(dataset), number)
    # Data sets are sorted by the type of the defect.
    chosen = Subset(dataset, [index * len(dataset) // number for index in range(number)])
    return DataLoader(chosen, collate_fn=dataset.collate_fn)


def _input(model: openvino.Model, batch: ImageBatch) -> torch.Tensor:
    """Images of a batch, in the size of the model's input if that is fixed."""
    images = cast("torch.Tensor", batch.image)
    sides = model.input(0).partial_shape[2:]
    return images if sides.is_dynamic else functional.resize(images, list(sides.to_shape()), antialias=True)


def _all_but_convolutions(model: openvino.Model) -> nncf.IgnoredScope:
    """All operations but the quantised convolutions and those between them."""
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    first = [node for node in convolutions if node.input_value(1).get_shape()[1] == IMAGE_CHANNELS]
    # Each bias is an operation that follows its convolution.
    biases = {
        user.get_node().get_friendly_name() for node in convolutions for user in node.output(0).get_target_inputs()
    }
    quantised = (biases | _with_inputs(convolutions)) - _with_inputs(first)
    names = [node.get_friendly_name() for node in model.get_ops()]
    return nncf.IgnoredScope(names=[name for name in names if name not in quantised], validate=False)


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
