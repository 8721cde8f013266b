"""Quantised models (``--compression_type int8_ptq`` and ``int8_acq``): only convolutions compute in 8 bits.

In 8 bits all channels of a map share one step, so that a channel with large values costs the precision of all others,
and students learn such channels. But a hidden channel can be divided by a factor, and the weights that read it
multiplied by the same, without changing what the network computes, since leaky rectified linear units and max-pooling
commute with positive factors. This is the cross-layer equalisation of Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction" (ICCV 2019), here by the ranges that channels have on images.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import chain, pairwise
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

from anomalib_students.networks.patch_network import NEGATIVE_SLOPE, PatchNetwork

__all__ = ["calibration_images", "equalised", "largest_difference", "quantise", "quantise_controlled"]

IMAGE_CHANNELS = 3
CALIBRATION_IMAGES = 32
"""Most images that calibrate a quantisation: each has tens of thousands of patches."""
FEW_IMAGES = 8
"""Most images by which ranges of channels are measured, and scores compared."""


def quantise(model: openvino.Model, datamodule: AnomalibDataModule) -> openvino.Model:
    """Quantise the convolutions of an OpenVINO model to 8 bits, except the first of each network.

    They take nearly all of the time. Scores are small differences of large numbers, and would lose accuracy. With the
    first convolutions, the resizing of the image would be quantised too. Images of the data module calibrate.
    """
    return nncf.quantize(model, **_settings(model, datamodule))


def quantise_controlled(
    model: openvino.Model, datamodule: AnomalibDataModule, metric: Metric | None, max_drop: float
) -> openvino.Model:
    """Quantise as :func:`quantise`, except convolutions that cost more than ``max_drop`` of a metric of test images.

    The metric is by default F1 of images. Raises a ``ValueError`` if no test image is anomalous.
    """
    datamodule.setup("test")
    tested = datamodule.test_data
    if not tested.has_anomalous:
        msg = "INT8_ACQ measures detection on the test images, none of which is anomalous: choose INT8_PTQ instead."
        raise ValueError(msg)
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
    images = [_input(quantised, batch) for batch in calibration_images(datamodule)]
    scores = torch.cat([model(image.to(weight)).pred_score.flatten().cpu() for image in images])
    quantised_scores = torch.cat([torch.from_numpy(compiled(image)["pred_score"]).flatten() for image in images])
    return float(((quantised_scores - scores).abs() / scores.abs().clamp_min(1)).max())


def calibration_images(datamodule: AnomalibDataModule, number: int = FEW_IMAGES) -> DataLoader[ImageBatch]:
    """Load at most ``number`` images spread over the validation data, or else the training data, one per batch."""
    datamodule.setup("fit")
    dataset = getattr(datamodule, "val_data", datamodule.train_data)
    number = min(len(dataset), number)
    # Data sets are sorted by the type of the defect.
    chosen = Subset(dataset, [index * len(dataset) // number for index in range(number)])
    return DataLoader(chosen, collate_fn=dataset.collate_fn)


@contextmanager
def equalised(model: nn.Module, images: Iterable[torch.Tensor]) -> Iterator[None]:
    """Equalise the hidden channels of all patch networks within a block, then restore the weights exactly.

    Their ranges are measured on ``images``, batches for the model, which is set to evaluation.
    """
    readers = _readers(model)
    original = {layer: deepcopy(layer.state_dict()) for layer in {*readers, *chain(*readers.values())}}
    ranges = _ranges(model.eval(), readers, images) if readers else {}
    try:
        for convolution, following in readers.items():
            _equalise(convolution, following, ranges[convolution])
        yield
    finally:
        for layer, state in original.items():
            layer.load_state_dict(state)


def _readers(model: nn.Module) -> dict[nn.Conv2d, list[nn.Conv2d]]:
    """Find the hidden convolutions of patch networks, and those that read them."""
    modules: list[Any] = list(model.modules())
    networks = [module for module in modules if isinstance(module, PatchNetwork) and module.layers]
    readers: dict[Any, list[Any]] = {
        hidden: [following] for network in networks for hidden, following in pairwise(network.convolutions)
    }
    for scale in modules:
        shared = getattr(scale, "shared_layers", 0)
        if shared and scale.teacher.layers:
            # Students continue from the features of their teacher.
            last_shared = scale.teacher.convolutions[shared - 1]
            readers[last_shared] += [student.convolutions[0] for student in scale.students]
    return readers


@torch.no_grad()
def _ranges(model: nn.Module, convolutions: Iterable[nn.Conv2d], images: Iterable[torch.Tensor]) -> dict[Any, Any]:
    """Measure the largest absolute value of each channel after each convolution, while a model predicts."""
    ranges: dict[nn.Module, Any] = {layer: layer.weight.new_zeros(layer.out_channels) for layer in convolutions}

    def record(convolution: nn.Module, _inputs: tuple[torch.Tensor, ...], features: torch.Tensor) -> None:
        activated = nn.functional.leaky_relu(features, NEGATIVE_SLOPE)
        ranges[convolution] = torch.maximum(ranges[convolution], activated.abs().amax(dim=(0, 2, 3)))

    with ExitStack() as hooks:
        for convolution in ranges:
            hooks.enter_context(convolution.register_forward_hook(record))
        for batch in images:
            model(batch)
    return ranges


@torch.no_grad()
def _equalise(convolution: nn.Conv2d, readers: list[nn.Conv2d], ranges: torch.Tensor) -> None:
    """Scale each channel by the root of its range, and of that of the weights that read it."""
    # Relative to the step of the output channel.
    relative = [reader.weight.abs() / reader.weight.abs().amax(dim=(1, 2, 3), keepdim=True) for reader in readers]
    of_weights = torch.stack([weights.nan_to_num().amax(dim=(0, 2, 3)) for weights in relative]).amax(dim=0)
    factor = (ranges / of_weights).sqrt()
    # 1 for channels that are always zero, or that nothing reads.
    factor = torch.where(factor.isfinite() & (factor > 0), factor, 1)
    convolution.weight.div_(factor[:, None, None, None])
    convolution.bias.div_(factor)  # type: ignore[union-attr]
    for reader in readers:
        reader.weight.mul_(factor[:, None, None])


def _settings(model: openvino.Model, datamodule: AnomalibDataModule) -> dict[str, Any]:
    """Arguments of NNCF: only convolutions after the first of each network are quantised, and what is between them."""
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    first = [node for node in convolutions if node.input_value(1).get_shape()[1] == IMAGE_CHANNELS]
    # Each bias is an operation that follows its convolution.
    biases = {
        user.get_node().get_friendly_name() for node in convolutions for user in node.output(0).get_target_inputs()
    }
    quantised = (biases | _with_inputs(convolutions)) - _with_inputs(first)
    others = {node.get_friendly_name() for node in model.get_ops()} - quantised
    images = calibration_images(datamodule, CALIBRATION_IMAGES)
    return {
        "calibration_dataset": nncf.Dataset(images, partial(_input, model)),
        # Leaky rectified linear units make few negative values, on which symmetric steps would waste one bit of eight.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "ignored_scope": nncf.IgnoredScope(names=sorted(others), validate=False),
    }


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
