"""Quantised exports (``--compression_type int8_ptq``): what to quantise, and how it is calibrated."""

from functools import partial
from typing import cast

import nncf
import openvino
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import functional

__all__ = ["calibration_images", "quantise"]

IMAGE_CHANNELS = 3
CALIBRATION_IMAGES = 32
"""Most images that calibrate: each has tens of thousands of patches."""


def quantise(model: openvino.Model, datamodule: AnomalibDataModule | None) -> openvino.Model:
    """Quantise the convolutions of an exported model to 8 bits, the first of each network excepted.

    Nearly all of the time goes there. The scores are small differences of large numbers, and would suffer; and the
    first convolutions are cheap, see the image itself, and would have its resizing quantised too.

    Args:
        model: OpenVINO model whose input are images of shape ``(B, 3, H, W)``.
        datamodule: Data module, some of whose validation images calibrate, or where it has none, training images.
            Where the size of the model's input is fixed, they are resized to it.

    Returns:
        The quantised model.

    Raises:
        ValueError: If there is no data module.
    """
    if datamodule is None:
        msg = (
            "Datamodule must be provided for OpenVINO INT8_PTQ compression: "
            "its images calibrate the model. Name the data, as in --data MVTec."
        )
        raise ValueError(msg)
    images = calibration_images(datamodule, CALIBRATION_IMAGES)
    return nncf.quantize(
        model,
        nncf.Dataset(images, partial(_input, model)),
        # Leaky rectified linear units make few negative values, on which symmetric steps would waste one bit of eight.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=_all_but_convolutions(model),
    )


def calibration_images(datamodule: AnomalibDataModule, number: int) -> DataLoader[ImageBatch]:
    """Choose images that are all over the validation data, or where there are none, over the training data.

    Args:
        datamodule: Data module; is set up.
        number: Most images to choose.

    Returns:
        Loader of batches of one image each, in its own size.
    """
    datamodule.setup("fit")
    dataset = getattr(datamodule, "val_data", datamodule.train_data)
    number = min(len(dataset), number)
    # Data sets are sorted by the type of the defect.
    chosen = Subset(dataset, [index * len(dataset) // number for index in range(number)])
    return DataLoader(chosen, collate_fn=dataset.collate_fn)


def _input(model: openvino.Model, batch: ImageBatch) -> torch.Tensor:
    """Take the images of a batch, in the size of the model's input where that is fixed."""
    images = cast("torch.Tensor", batch.image)
    sides = model.input(0).partial_shape[2:]
    return images if sides.is_dynamic else functional.resize(images, list(sides.to_shape()), antialias=True)


def _all_but_convolutions(model: openvino.Model) -> nncf.IgnoredScope:
    """Name all operations but the convolutions that are quantised and what lies between them."""
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
    """Name nodes and all that they are computed from."""
    names: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            waiting += [value.get_node() for value in node.input_values()]
    return names
