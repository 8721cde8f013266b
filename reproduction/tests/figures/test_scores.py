from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from anomalib_students.model.anomaly_map import MULTI_SCALE
from anomalib_students.model.describers import PixelDescriber
from anomalib_students.model.torch_model import UninformedStudentsModel
from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.report.command import load_model
from anomalib_students.report.results import find_test_images
from reproduction.figures import scores
from reproduction.figures.examples import named_images, read_examples
from reproduction.figures.pixels import Pixels, PixelSampler
from reproduction.figures.scores import (
    describe_patches,
    describe_pixels,
    pre_process,
    sample_patches,
    scale_maps,
    score_image,
)

from .conftest import SIDE, make_model


@pytest.fixture
def batch(datamodule):
    """The image round/000."""
    (batch,) = read_examples(find_test_images(datamodule).subsample([2]))
    return batch


def test_maps_are_those_of_the_ensembles_and_of_the_model():
    model = make_model((33, 65)).model
    images = torch.randn(2, 3, 40, 56)
    maps = scale_maps(model, images)
    assert list(maps) == ["p = 33", "p = 65", MULTI_SCALE]
    describer = PixelDescriber(512, output_stride=8)
    with torch.no_grad():
        for size in (33, 65):
            assert torch.equal(maps[f"p = {size}"], model.ensembles[f"p{size}"](images, describer))
    assert torch.equal(maps[MULTI_SCALE], model(images).anomaly_map)
    torch.testing.assert_close(maps[MULTI_SCALE], (maps["p = 33"] + maps["p = 65"]) / 2)


def test_a_single_scale_has_a_single_map():
    model = UninformedStudentsModel(patch_sizes=(33,), n_students=1, descriptor_dim=4).eval()
    assert list(scale_maps(model, torch.randn(1, 3, 33, 33))) == ["p = 33"]


def test_a_scored_image_is_what_the_model_sees_but_for_its_colours(model, batch):
    read, mask = batch.image.clone(), batch.gt_mask.clone()
    scored = score_image(model, batch)
    assert scored.name == "round/000"
    resized = functional.resize(read, [SIDE, SIDE], antialias=True)
    # Normalised and back again in single precision.
    np.testing.assert_allclose(scored.image, resized[0].permute(1, 2, 0).numpy(), atol=1e-6)
    expected = functional.resize(mask, [SIDE, SIDE], interpolation=v2.InterpolationMode.NEAREST)
    np.testing.assert_array_equal(scored.mask, expected[0].numpy() > 0)
    assert scored.mask.any()

    network_input = functional.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for name, expected in scale_maps(model.model, network_input).items():
        np.testing.assert_allclose(scored.maps[name], expected[0, 0].numpy(), rtol=1e-4, atol=1e-4)


def test_a_model_without_pre_processor_sees_the_image_as_it_is(batch):
    model = make_model((33,))
    model.pre_processor = None
    image, mask = pre_process(model, batch)
    assert torch.equal(image, batch.image)
    assert np.array_equal(mask, batch.gt_mask[0].numpy().astype(bool))
    np.testing.assert_array_equal(score_image(model, batch).image, batch.image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("max_tile", [512, 16])
def test_described_pixels_are_those_of_the_grid(model, max_tile):
    ensemble = model.model.scales[0]
    image = torch.randn(1, 3, 41, 57)
    truth = np.random.default_rng(0).random((41, 57)) < 0.5
    stride = 4
    parts = list(describe_pixels(ensemble, image, truth, stride, max_tile))
    assert (len(parts) > 1) == (max_tile < 57)
    pixels = Pixels(*map(np.concatenate, zip(*parts, strict=True)))

    with torch.no_grad():
        teacher = (dense_descriptors(ensemble.teacher, image, stride) - ensemble.descriptor_mean) / (
            ensemble.descriptor_std
        )
        students = [dense_descriptors(student, image, stride) for student in ensemble.students]
        score = ensemble(image, PixelDescriber(max_tile, stride))[0, 0].numpy()
    # In the order of the pixels, by which the parts are found again.
    expected = {}
    for row in range(0, 41, stride):
        for column in range(0, 57, stride):
            place = 0, slice(None), row // stride, column // stride
            own = [student[place].double().numpy() for student in students]
            mean = sum(own) / 2
            spread = sum(((one - mean) ** 2).sum() for one in own) / 2
            expected[row, column] = (teacher[place].numpy(), mean, spread, score[row, column], truth[row, column])
    order = np.argsort(pixels.score)
    wanted = sorted(expected.values(), key=lambda values: values[3])
    for found, column in zip(pixels, zip(*wanted, strict=True), strict=True):
        np.testing.assert_allclose(found[order].astype(float), np.array(column, float), rtol=1e-3, atol=1e-4)


def test_described_patches_are_whole_images(patch_model):
    ensemble = patch_model.model.scales[1]
    images = [torch.randn(1, 3, height, width) for height, width in ((28, 28), (33, 33), (60, 41))]
    truth = np.array([True, False, True])
    found = describe_patches(ensemble, images, truth)

    exact = deepcopy(ensemble).double()
    zoomed = [interpolate(image.double(), size=(33, 33), mode="bilinear", antialias=True) for image in images]
    with torch.no_grad():
        teacher = (exact.teacher(torch.cat(zoomed)) - exact.descriptor_mean) / exact.descriptor_std
        students = torch.stack([student(torch.cat(zoomed)) for student in exact.students])[..., 0, 0]
    teacher, mean = teacher[..., 0, 0], students.mean(dim=0)
    error = (mean - teacher).square().sum(dim=1) - teacher @ exact.error_weight
    uncertainty = students.var(dim=0, correction=0).sum(dim=1)
    score = (error - exact.error_mean) / exact.error_std
    score = score + (uncertainty - exact.uncertainty_mean) / exact.uncertainty_std
    for values, expected in zip(found, (teacher, mean, uncertainty, score, torch.from_numpy(truth)), strict=True):
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_images_in_parts_are_all_sampled(patch_model, datamodule, monkeypatch):
    monkeypatch.setattr(scores, "PATCHES_AT_ONCE", 2)
    batches = list(read_examples(find_test_images(datamodule)))
    samplers = [PixelSampler(100), PixelSampler(100)]
    sample_patches(patch_model, iter(batches), samplers)
    for ensemble, sampler in zip(patch_model.model.scales, samplers, strict=True):
        with torch.no_grad():
            expected = np.array(
                [float(ensemble(pre_process(patch_model, batch)[0], patch_model.model.describer)) for batch in batches]
            )
        # Two good images, one round defect and two square ones: masks there are, but labels count.
        is_anomalous = np.array([bool(batch.gt_label) for batch in batches])
        assert is_anomalous.sum() == 3
        for label in (False, True):
            np.testing.assert_allclose(
                sampler.scores(is_anomalous=label), expected[is_anomalous == label], rtol=1e-4, atol=1e-4
            )


def test_a_checkpoint_has_all_that_is_needed(checkpoint, model, datamodule):
    dataset = named_images(find_test_images(datamodule), [Path("round/000.png")])
    (first,) = (score_image(model, batch) for batch in read_examples(dataset))
    (again,) = (score_image(load_model(checkpoint, "cpu"), batch) for batch in read_examples(dataset))
    assert again.maps.keys() == first.maps.keys()
    for name, values in first.maps.items():
        np.testing.assert_array_equal(again.maps[name], values)
    np.testing.assert_array_equal(again.image, first.image)


def test_a_checkpoint_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"There is no checkpoint {tmp_path}/gone.ckpt"):
        load_model(tmp_path / "gone.ckpt")
    with pytest.raises(FileNotFoundError, match=f"There is no checkpoint {tmp_path}"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"a": 1},
        {"state_dict": {}, "hyper_parameters": {"backbone": "resnet18"}, "pytorch-lightning_version": "2.6.0"},
    ],
    ids=["no file of torch's", "no checkpoint", "checkpoint of another model"],
)
def test_a_file_that_is_no_checkpoint_of_the_model_is_named(content, tmp_path):
    path = tmp_path / "model.ckpt"
    if content is None:
        path.write_bytes(b"nothing of the kind")
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"{path} is no checkpoint of UninformedStudents: .") as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_an_unknown_device_is_told(checkpoint):
    with pytest.raises(RuntimeError, match="nonsense"):
        load_model(checkpoint, "nonsense")
