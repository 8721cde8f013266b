"""One scale against networks that are evaluated one by one, each from its first layer."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from torch import nn

from anomalib_students.model import student_teacher
from anomalib_students.model.anomaly_map import predictive_uncertainty, regression_error, upsample
from anomalib_students.model.augment import training_tiles
from anomalib_students.model.student_teacher import PLACES, StudentTeacher
from anomalib_students.networks.dense import OUTPUT_STRIDES, dense_descriptors, pad_border
from anomalib_students.networks.statistics import RunningStatistics

pytestmark = pytest.mark.usefixtures("narrow_networks")

DIM = 6
STATISTICS = ("descriptor_mean", "descriptor_std", "error_mean", "error_std", "uncertainty_mean", "uncertainty_std")


def make_scale(patch_size=33, n_students=2, architecture="paper", shared_layers=0):
    """One scale in double precision, whose networks and statistics all matter to its output."""
    scale = StudentTeacher(patch_size, n_students, DIM, architecture, shared_layers).double()
    for module in scale.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for name in STATISTICS:
        buffer = getattr(scale, name)
        buffer.copy_(torch.rand(buffer.shape) + (0.5 if name.endswith("_std") else 0))
    return scale


def make_images(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def whole_students(scale):
    """The students as networks of their own, with the layers that they share with the teacher."""
    for student in scale.students:
        network = deepcopy(scale.teacher)
        network.convolutions = nn.ModuleList(
            [*scale.teacher.convolutions[: scale.shared_layers], *student.convolutions]
        )
        yield network


def describe_one_by_one(scale, images, output_stride, painted=None):
    target = dense_descriptors(scale.teacher, images, output_stride).float()
    target = (target - scale.descriptor_mean) / scale.descriptor_std
    seen = images if painted is None else painted
    return torch.stack([dense_descriptors(each, seen, output_stride) for each in whole_students(scale)]), target


@pytest.mark.parametrize("output_stride", [1, 4, 8])
@pytest.mark.parametrize("shared_layers", [0, 1, 2, 3])
def test_students_continue_from_the_teachers_first_layers(output_stride, shared_layers):
    scale = make_scale(shared_layers=shared_layers)
    images, painted = make_images(2, 3, 30, 41), make_images(2, 3, 30, 41)
    padded = [pad_border(each, 33) for each in (images, painted)]
    expected = describe_one_by_one(scale, images, output_stride, painted)
    torch.testing.assert_close(scale.describe(padded[0], output_stride, padded[1])[:2], expected)
    expected = describe_one_by_one(scale, images, output_stride)
    torch.testing.assert_close(scale.describe(padded[0], output_stride)[:2], expected)


def test_students_hold_only_their_own_layers():
    scale = make_scale(shared_layers=2)
    assert {name for name, _ in scale.named_parameters() if name.startswith("students.0.")} == {
        f"students.0.convolutions.{layer}.{kind}" for layer in range(2) for kind in ("weight", "bias")
    }
    assert {name for name, weight in scale.named_parameters() if not weight.requires_grad} == {
        name for name, _ in scale.named_parameters() if name.startswith("teacher.")
    }


@pytest.mark.parametrize("n_students", [1, 3])
@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
def test_map_is_equation_11(output_stride, n_students):
    scale = make_scale(n_students=n_students)
    images = make_images(2, 3, 19, 26)
    students, target = describe_one_by_one(scale, images, output_stride)
    score = (regression_error(students, target) - scale.error_mean) / scale.error_std
    if n_students > 1:
        score += (predictive_uncertainty(students) - scale.uncertainty_mean) / scale.uncertainty_std
    expected = upsample(score.unsqueeze(1), output_stride, (19, 26))
    torch.testing.assert_close(scale(images, output_stride), expected, check_dtype=False)


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 40), (50, 33)])
def test_an_image_in_tiles_has_the_map_of_the_whole(height, width, output_stride, monkeypatch):
    scale, sides = make_scale(), []
    images = make_images(2, 3, height, width)
    expected = scale(images, output_stride)
    describe = scale.describe

    def watched(tile, stride):
        sides.extend(side - 32 for side in tile.shape[-2:])
        return describe(tile, stride)

    monkeypatch.setattr(scale, "describe", watched)
    # The teacher's descriptors are normalised in single precision.
    torch.testing.assert_close(scale(images, output_stride, max_tile=16), expected, rtol=1e-6, atol=1e-4)
    assert max(sides) <= 16


class TestLoss:
    @pytest.mark.parametrize("shared_layers", [0, 2])
    @pytest.mark.parametrize("training_mode", ["phase", "dense"])
    def test_only_students_see_synthetic_defects(self, training_mode, shared_layers):
        scale = make_scale(shared_layers=shared_layers)
        generator = torch.Generator().manual_seed(0)
        tiles, painted, _ = training_tiles(scale.teacher, make_images(2, 3, 40, 40), training_mode, 1.0, generator)
        stride = 4 if training_mode == "phase" else 1
        describe = lambda network, tiles: dense_descriptors(network, tiles, stride, padded=True)  # noqa: E731
        target = (describe(scale.teacher, tiles) - scale.descriptor_mean) / scale.descriptor_std
        expected = sum(
            (describe(student, painted) - target).square().sum(dim=1).mean() for student in whole_students(scale)
        )
        torch.testing.assert_close(scale.loss(tiles, stride, painted), expected, check_dtype=False)
        assert abs(scale.loss(tiles, stride) - expected) > 1e-3

    @pytest.mark.parametrize("pixels", [10**9, 2 * 72 * 72 // 4, 1])
    def test_hard_pixels_are_chosen_over_the_batch(self, pixels, monkeypatch):
        """Whole or in chunks, some of which have high contrast; with the gradients of the whole."""
        scale = make_scale(shared_layers=1)
        images = make_images(6, 3, 72, 72) * torch.tensor([0.1, 3, 0.1, 0.1, 3, 0.1]).view(-1, 1, 1, 1)
        painted = images + 0.1 * make_images(6, 3, 72, 72)
        students, target, _ = scale.describe(images, 4, painted)
        distances = (students - target).square().sum(dim=2).flatten(1)
        n_hard = round(0.1 * distances.shape[1])
        expected = distances.sort(descending=True).values[:, :n_hard].mean(dim=1).sum()
        parameters = list(scale.students.parameters())
        monkeypatch.setattr(student_teacher, "TRAINING_PIXELS", pixels)
        loss = scale.loss(images, 4, painted, hard_fraction=0.1)
        torch.testing.assert_close(loss, expected, check_dtype=False)
        gradients = torch.autograd.grad(expected, parameters)
        assert all(gradient.any() for gradient in gradients)
        # The loss is in single precision.
        torch.testing.assert_close(torch.autograd.grad(loss, parameters), gradients, rtol=1e-4, atol=1e-4)

    def test_activations_of_a_large_batch_are_not_kept(self, monkeypatch):
        scale, sizes = make_scale(), []
        describe = scale.describe
        monkeypatch.setattr(scale, "describe", lambda tiles, *more: sizes.append(len(tiles)) or describe(tiles, *more))
        monkeypatch.setattr(student_teacher, "TRAINING_PIXELS", 2 * 40 * 40 // 4)
        scale.loss(make_images(5, 3, 40, 40), 4).backward()
        # Forward, and again in the backward pass.
        assert sizes[:3] == [2, 2, 1]
        assert sorted(sizes[3:]) == [1, 2, 2]


def test_scores_are_normalised_by_what_the_held_out_images_have():
    scale = make_scale()
    images = make_images(2, 3, 37, 41)
    students, target, _ = scale.describe(pad_border(images, 33), 2)
    scores = {"error": regression_error(students, target), "uncertainty": predictive_uncertainty(students)}
    statistics = RunningStatistics(2)
    statistics.update(torch.stack(scale.measure(images, 2), dim=-1).flatten(0, -2))
    scale.normalise_scores(statistics)
    for name, values in scores.items():
        assert float(getattr(scale, f"{name}_mean")) == pytest.approx(float(values.mean()), rel=1e-4)
        assert float(getattr(scale, f"{name}_std")) == pytest.approx(float(values.std(correction=0)), rel=1e-4)


@pytest.mark.parametrize("max_tile", [512, 16])
@pytest.mark.parametrize("size", [(80, 160), (18, 30)])
def test_errors_are_weighed_by_those_of_the_images_learnt_from(size, max_tile):
    """By the inverse fourth root of their covariance, and the mean at each place relative to that of all."""
    scale = StudentTeacher(33, 2, DIM, whitens=True, local_mean=0.5).double()
    nn.init.kaiming_normal_(scale.teacher.convolutions[0].weight)
    images = [make_images(1, 3, *size) for _ in range(3)]
    statistics = RunningStatistics(DIM, covariance=True), RunningStatistics(PLACES**2), RunningStatistics(1)
    with torch.no_grad():
        for image in images:
            scale.update_errors(image, 2, max_tile, *statistics)
        scale.weigh_errors(*statistics)
        described = [scale.describe(pad_border(image, 33), 2)[:2] for image in images]
    differences = torch.cat([students.float().mean(dim=0) - target for students, target in described])
    vectors = differences.movedim(1, -1).reshape(-1, DIM).double()
    covariance = np.cov(vectors.numpy(), rowvar=False, bias=True)
    relative = covariance / (covariance.trace() / DIM)
    weighting = scale.error_weighting.double()
    torch.testing.assert_close(
        weighting.T @ weighting, torch.from_numpy(fractional_matrix_power(relative, -0.5)), rtol=1e-4, atol=1e-4
    )
    errors = differences.double().square().sum(dim=1).mean(dim=0).numpy()
    # The mean of what each place covers, or the value that covers it where there are more places than values.
    places = [np.arange(PLACES + 1) * side / PLACES for side in errors.shape]
    bounds = [(np.floor(each[:-1]).astype(int), np.ceil(each[1:]).astype(int)) for each in places]
    expected = [
        [errors[a:b, c:d].mean() for c, d in zip(*bounds[1], strict=True)] for a, b in zip(*bounds[0], strict=True)
    ]
    expected = np.array(expected) / np.mean(expected)
    np.testing.assert_allclose(scale.error_pattern, expected, rtol=1e-4)


def test_errors_are_focused_by_what_is_unusual_on_the_images_learnt_from():
    """The fine features are whitened, and softened by how far they are below the largest around, on average."""
    scale = StudentTeacher(83, 1, 84, "lean", shared_layers=1, whitens=True).double()
    images = [make_images(1, 3, 130, 90) for _ in range(4)]
    statistics = RunningStatistics(84 + 24, covariance=True)
    errors = RunningStatistics(84, covariance=True), RunningStatistics(PLACES**2), RunningStatistics(1)
    with torch.no_grad():
        for image in images:
            statistics.update(scale.descriptor_vectors(pad_border(image, 83), 8))
        scale.normalise_descriptors(statistics)
        deviations = np.concatenate([scale.describe(pad_border(image, 83), 8)[2] for image in images])
        for image in images:
            scale.update_errors(image, 8, 64, *errors)
        scale.weigh_errors(*errors)
    # All but directions that hardly vary have a variance of 1.
    assert deviations.mean() == pytest.approx(1, abs=0.1)
    excess = [
        deviation[max(0, row - 5) : row + 6, max(0, column - 5) : column + 6].max() - deviation[row, column]
        for deviation in deviations
        for row, column in np.ndindex(*deviation.shape)
    ]
    assert float(scale.softening) == pytest.approx(20 * np.mean(excess), rel=1e-5)


def test_students_that_diverged_are_said_to_have():
    scale = StudentTeacher(33, 1, DIM, whitens=True)
    statistics = RunningStatistics(DIM, covariance=True), RunningStatistics(PLACES**2), RunningStatistics(1)
    for each in statistics:
        each.update(torch.full((2, each.moments.shape[1]), torch.nan))
    with pytest.raises(ValueError, match="training diverged"):
        scale.weigh_errors(*statistics)


def test_students_that_err_nowhere_have_finite_weights():
    scale = StudentTeacher(33, 1, DIM, whitens=True, local_mean=0.5)
    statistics = RunningStatistics(DIM, covariance=True), RunningStatistics(PLACES**2), RunningStatistics(1)
    for each in statistics:
        each.update(torch.zeros(2, each.moments.shape[1]))
    scale.weigh_errors(*statistics)
    assert scale.error_weighting.isfinite().all()
    assert scale.error_pattern.isfinite().all()


ADDED = ("error_w", "error_p", "fine_", "soft")


def test_weights_of_before_errors_were_weighed_score_as_they_did():
    scale = StudentTeacher(33, 1, DIM, whitens=True, local_mean=0.5)
    state = {name: value for name, value in scale.state_dict().items() if not name.startswith(ADDED)}
    images = torch.randn(1, 3, 20, 20)
    other = StudentTeacher(33, 1, DIM, whitens=True, local_mean=0.5)
    other.load_state_dict(state)
    torch.testing.assert_close(other(images), scale(images))
