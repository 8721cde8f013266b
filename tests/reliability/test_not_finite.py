"""An image with pixels that are not finite, or absurdly large, is never called good."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.datasets.image import MVTecADDataset
from anomalib.deploy import CompressionType, ExportType
from anomalib.models import UninformedStudents
from anomalib.pre_processing import PreProcessor
from openvino import Core
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import resize

from anomalib_students.model.anomaly_map import prediction

from .small import SIDE, small_data, small_engine, small_model

BROKEN = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> UninformedStudents:
    model = small_model(n_students=2)
    small_engine(tmp_path_factory.mktemp("run")).fit(model, datamodule=small_data(root))
    return model.eval()


def broken_images(value: float) -> torch.Tensor:
    """Three images, the last of which has one broken pixel."""
    images = torch.rand(3, 3, SIDE, SIDE)
    images[2, 1, 5, 7] = value
    return images


@pytest.mark.parametrize("value", BROKEN)
def test_is_an_error_in_python(value: float) -> None:
    model = small_model().eval()
    with pytest.raises(ValueError, match=r"no score for the images \[2\] of the batch: pixels are NaN or beyond"):
        model(broken_images(value))


@pytest.mark.slow
def test_is_anomalous_with_a_score_of_1_in_exported_models(
    model: UninformedStudents, root: Path, tmp_path: Path
) -> None:
    """Of 8 bits, which hold no large values: what passes there passes without quantisation."""
    exported = small_engine(tmp_path).export(
        model,
        ExportType.OPENVINO,
        tmp_path,
        compression_type=CompressionType.INT8_PTQ,
        input_size=(SIDE, SIDE),
        datamodule=small_data(root),
    )
    good = resize(MVTecADDataset(root, "dots", split="test")[0].image, [SIDE, SIDE])
    images = torch.stack([good, *[good] * len(BROKEN)])
    images[1:, 1, 5, 7] = torch.tensor(BROKEN)
    for precision in ("f32", "bf16"):
        compiled = Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        outputs = {name.any_name: result for name, result in compiled(images.numpy()).items()}
        # OpenVINO rounds the end of the range in the last bit.
        for name in ("pred_score", "anomaly_map"):
            np.testing.assert_allclose(outputs[name][1:], 1, atol=1e-6)
            assert (outputs[name][0] < 1).any()
        for name in ("pred_label", "pred_mask"):
            assert outputs[name][1:].all()


def test_weights_that_are_not_finite_are_named() -> None:
    with pytest.raises(ValueError, match="weights are not finite"):
        prediction(torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 3, 2, 2))


def test_is_an_error_before_the_training(root: Path, tmp_path: Path) -> None:
    class Breaking(Resize):
        def transform(self, inpt, params):
            return super().transform(inpt, params) * torch.nan

    model = small_model(pre_processor=PreProcessor(transform=Breaking((SIDE, SIDE))))
    with pytest.raises(ValueError, match="Descriptors of the training images are not finite"):
        small_engine(tmp_path).fit(model, datamodule=small_data(root))
