"""Lean networks: the image at half its side, teacher files, and the default model's map patch by patch."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anomalib_students import UninformedStudentsModel
from anomalib_students.model.anomaly_map import upsample
from anomalib_students.networks.lean import LeanTeacher, halve
from anomalib_students.networks.weights import load_teacher, save_teacher, teacher_path

from .test_dense import describe_cropped_patches, make_images


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (8, 9), (31, 20)])
def test_half_the_side_is_the_binomial_mean_around_every_second_pixel(size):
    images = make_images(2, 3, *size)
    # Reflected about its border, a side of one pixel only repeats it.
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    expected = sum(
        (2 - abs(row - 1)) * (2 - abs(column - 1)) / 16 * padded[..., row:, column:][..., : size[0] : 2, : size[1] : 2]
        for row in range(3)
        for column in range(3)
    )
    np.testing.assert_allclose(halve(images).numpy(), expected, rtol=0, atol=1e-12)


def test_a_teacher_of_both_scales_comes_back_from_its_file(tmp_path):
    network = LeanTeacher(84)
    save_teacher(network, tmp_path / "lean.safetensors", {})
    for patch_size in (83, 167):
        loaded = load_teacher(tmp_path / "lean.safetensors", patch_size, 84, "lean").state_dict()
        assert loaded.keys() == network.state_dict().keys()
        assert all(torch.equal(loaded[name], weight.half().float()) for name, weight in network.state_dict().items())
        assert teacher_path("bundled", patch_size, "lean").name == "lean_p83.safetensors"


def test_the_default_costs_8_gflop_an_image():
    model = UninformedStudentsModel().to("meta")
    with FlopCounterMode(display=False) as counter:
        for scale in model.scales:
            scale(torch.rand(1, 3, 320, 320, device="meta"), model.output_stride)
    assert 8e9 < counter.get_total_flops() < 8.2e9


def whole_students(scale):
    """The students with the first features that they share with the teacher."""
    for student in scale.students:
        network = deepcopy(student)
        network.first_layer, network.first_features = 0, scale.teacher.first_features
        network.convolutions.insert(0, torch.nn.Identity())
        yield network


class Middle(torch.nn.Module):
    """The fine features of a teacher, which see the 19 pixels in the middle of its patch."""

    patch_size = 19

    def __init__(self, teacher):
        super().__init__()
        self.layers = torch.nn.Sequential(*teacher.stages[:2])
        self.stem = teacher.stem

    def forward(self, patches):
        return self.layers(self.stem(patches).clamp(0, 6))


def focused(error, deviation, softening):
    """Errors ``(h, w)``, by how unusual their place is beside the others whose patches reach it."""
    rows, columns = error.shape
    focused = error.clone()
    for row, column in np.ndindex(rows, columns):
        near = deviation[max(0, row - 5) : row + 6, max(0, column - 5) : column + 6]
        focused[row, column] *= (deviation[row, column] + softening) / (near.max() + softening)
    return focused


def bilinear(values, shape):
    """Values of a grid in the middles of the cells of another one that covers the same."""
    for axis, n in enumerate(shape):
        side = values.shape[axis]
        places = (np.arange(n) + 0.5) * side / n - 0.5
        values = np.apply_along_axis(lambda line, x, n: np.interp(x, range(n), line), axis, values, places, side)
    return values


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 40), (37, 120)])
def test_maps_of_the_default_are_those_of_patches_cropped_one_by_one(size):
    """With layers that the students share, and a second scale on the image at half its side."""
    model = UninformedStudentsModel(n_students=2, descriptor_dim=84).double().eval()
    images, maps = make_images(1, 3, *size), []
    for scale, view in zip(model.scales, (images, halve(images)), strict=True):
        scale.descriptor_mean.normal_()
        scale.descriptor_std.uniform_(0.5, 2)
        scale.whitening.normal_(std=0.1)
        scale.error_weighting.normal_(std=0.1)
        scale.error_pattern.uniform_(0.5, 2)
        scale.fine_mean.normal_(std=0.01)
        scale.fine_whitening.normal_(std=10)
        scale.softening.fill_(0.5)
        for name in ("error", "uncertainty"):
            getattr(scale, f"{name}_mean").uniform_()
            getattr(scale, f"{name}_std").uniform_(0.5, 2)
        grid = [len(range(0, side, 8)) for side in view.shape[-2:]]
        pixels = [(8 * row, 8 * column) for row, column in np.ndindex(*grid)]
        target = describe_cropped_patches(scale.teacher, view, pixels)[:, 0]
        target = (target - scale.descriptor_mean[:, 0, 0]) / scale.descriptor_std[:, 0, 0]
        target = target @ scale.whitening.T
        students = torch.stack([describe_cropped_patches(each, view, pixels)[:, 0] for each in whole_students(scale)])
        error = ((students.mean(dim=0) - target) @ scale.error_weighting.T).square().sum(dim=1)
        fine = describe_cropped_patches(Middle(scale.teacher), view, pixels)[:, 0] - scale.fine_mean[:, 0, 0]
        deviation = (fine @ scale.fine_whitening.T).square().mean(dim=1)
        unfocused = error
        error = focused(error.view(*grid), deviation.view(*grid), scale.softening).flatten()
        assert (error < 0.98 * unfocused).any()
        uncertainty = students.var(dim=0, correction=0).sum(dim=1)
        pattern = torch.from_numpy(bilinear(scale.error_pattern.numpy(), grid)).flatten()
        score = (error - scale.error_mean * (1 + 0.5 * (pattern - 1))) / scale.error_std
        score += (uncertainty - scale.uncertainty_mean) / scale.uncertainty_std
        of_view = upsample(score.view(1, 1, *grid), 8, view.shape[-2:])
        maps.append(of_view if view is images else upsample(of_view, 2, size))
    expected = (maps[0] + 0.5 * maps[1]) / 1.5
    for max_tile in (512, 16):
        model.settings = replace(model.settings, max_tile=max_tile)
        # The teacher's descriptors are normalised in single precision.
        torch.testing.assert_close(model(images).anomaly_map, expected, rtol=1e-5, atol=1e-4, check_dtype=False)
