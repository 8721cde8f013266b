"""Each equation against the paper's formula, written with loops in double precision."""

import numpy as np
import openvino
import pytest
import torch
from allpairspy import AllPairs
from onnx.reference import ReferenceEvaluator

from anomalib_students.model.anomaly_map import (
    combine_scales,
    focus,
    image_score,
    normalised_score,
    predictive_uncertainty,
    regression_error,
    upsample,
)

SHAPES = [(1, 1, 1, 1, 1), (1, 2, 3, 4, 5), (3, 1, 8, 2, 3), (5, 2, 4, 3, 1)]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def equations_8_and_9(students, target):
    n_students, batch, _, height, width = students.shape
    error = np.zeros((batch, height, width))
    for b, r, c in np.ndindex(error.shape):
        mixture_mean = sum(students[i, b, :, r, c] for i in range(n_students)) / n_students
        error[b, r, c] = np.linalg.norm(mixture_mean - target[b, :, r, c]) ** 2
    return error


def equation_10(students):
    n_students, batch, _, height, width = students.shape
    uncertainty = np.zeros((batch, height, width))
    for b, r, c in np.ndindex(uncertainty.shape):
        means = [students[i, b, :, r, c] for i in range(n_students)]
        mixture_mean = sum(means) / n_students
        squared_norms = [np.linalg.norm(mean) ** 2 for mean in means]
        uncertainty[b, r, c] = sum(squared_norms) / n_students - np.linalg.norm(mixture_mean) ** 2
    return uncertainty


def bilinear(grid, stride, height, width):
    """Interpolate a grid whose entry (i, j) lies at pixel (stride i, stride j); beyond it repeat the border."""
    rows, columns = grid.shape
    result = np.zeros((height, width))
    for r, c in np.ndindex(height, width):
        y, x = min(r / stride, rows - 1), min(c / stride, columns - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        upper = (1 - (x - left)) * grid[top, left] + (x - left) * grid[top, right]
        lower = (1 - (x - left)) * grid[bottom, left] + (x - left) * grid[bottom, right]
        result[r, c] = (1 - (y - top)) * upper + (y - top) * lower
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_regression_error_is_equation_9(shape):
    students, target = normal(*shape), normal(*shape[1:], seed=1)
    error = regression_error(torch.from_numpy(students), torch.from_numpy(target))
    np.testing.assert_allclose(error.numpy(), equations_8_and_9(students, target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_predictive_uncertainty_is_equation_10(shape):
    students = normal(*shape)
    uncertainty = predictive_uncertainty(torch.from_numpy(students))
    np.testing.assert_allclose(uncertainty.numpy(), equation_10(students), rtol=1e-4, atol=1e-6)


def test_predictive_uncertainty_keeps_its_digits_far_from_zero():
    students = 1000 + 0.01 * torch.randn(3, 1, 128, 2, 2)
    uncertainty = predictive_uncertainty(students)
    assert (uncertainty >= 0).all()
    np.testing.assert_allclose(uncertainty.numpy(), equation_10(students.double().numpy()), rtol=1e-2)


def test_scores_of_half_precision_descriptors_are_single_precision():
    students, target = torch.randn(2, 1, 4, 2, 2).bfloat16(), torch.randn(1, 4, 2, 2).bfloat16()
    assert regression_error(students, target).dtype == torch.float32
    assert predictive_uncertainty(students).dtype == torch.float32
    torch.testing.assert_close(regression_error(students, target), regression_error(students.float(), target.float()))
    torch.testing.assert_close(predictive_uncertainty(students), predictive_uncertainty(students.float()))


def test_the_sum_of_normalised_scores_is_equation_11():
    error, uncertainty = normal(2, 3, 4) ** 2, normal(2, 3, 4, seed=1) ** 2
    e_mean, e_std, v_mean, v_std = 1.5, 0.25, 3.0, 2.0
    expected = np.zeros((2, 3, 4))
    for index in np.ndindex(expected.shape):
        expected[index] = (error[index] - e_mean) / e_std + (uncertainty[index] - v_mean) / v_std
    score = normalised_score(torch.from_numpy(error), torch.tensor(e_mean), torch.tensor(e_std))
    score += normalised_score(torch.from_numpy(uncertainty), torch.tensor(v_mean), torch.tensor(v_std))
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("n_scales", [1, 2, 3])
def test_combined_scales_are_equation_12(n_scales):
    maps = [normal(2, 1, 3, 4, seed=seed) for seed in range(n_scales)]
    expected = np.zeros((2, 1, 3, 4))
    for index in np.ndindex(expected.shape):
        expected[index] = sum(one[index] for one in maps) / n_scales
    np.testing.assert_allclose(
        combine_scales([torch.from_numpy(one) for one in maps], [1.0] * n_scales).numpy(), expected, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("size", "stride", "dtype"),
    list(AllPairs([[(1, 1), (1, 6), (8, 8), (9, 17), (31, 20)], [1, 2, 4, 8], [torch.float32, torch.float64]])),
)
def test_upsample_interpolates_bilinearly_and_repeats_the_last_row_and_column(size, stride, dtype):
    height, width = size
    rows, columns = -(-height // stride), -(-width // stride)
    scores = torch.from_numpy(normal(2, 1, rows, columns)).to(dtype)
    result = upsample(scores, stride, (height, width))
    assert result.shape == (2, 1, height, width)
    assert result.dtype == dtype
    assert torch.equal(result[..., ::stride, ::stride], scores)
    for image in range(2):
        expected = bilinear(scores[image, 0].double().numpy(), stride, height, width)
        np.testing.assert_allclose(result[image, 0].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (1, 9), (35, 70), (80, 200)])
@pytest.mark.parametrize("fraction", [0, 0.01, 0.1])
def test_image_score_is_the_mean_of_the_largest_windows(size, fraction):
    scores = normal(3, 1, *size)
    padded = np.pad(scores[:, 0], ((0, 0), *((0, -side % 8) for side in size)), mode="edge")
    means = padded.reshape(3, len(padded[0]) // 8, 8, -1, 8).mean(axis=(2, 4)).reshape(3, -1)
    largest = -np.sort(-means)[:, : 1 + int(fraction * means.shape[1])].mean(axis=1)
    expected = largest if fraction else scores.max(axis=(1, 2, 3))
    np.testing.assert_allclose(image_score(torch.from_numpy(scores), fraction).numpy(), expected, rtol=1e-12)


def test_exported_image_score_follows_the_size_of_the_map(tmp_path):
    class Score(torch.nn.Module):
        def forward(self, scores):
            return image_score(scores, 0.01)

    free = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)
    path, example = tmp_path / "score.onnx", (torch.rand(2, 1, 205, 133),)
    torch.onnx.export(Score(), example, path, dynamo=True, dynamic_shapes=free, verbose=False)
    # One of them computes in bfloat16 where the processor does.
    exact, usual = (openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": t}) for t in ("f32", "bf16"))
    reference = ReferenceEvaluator(str(path))
    for shape in [(3, 1, 20, 30), (1, 1, 7, 5), (1, 1, 300, 400)]:
        scores = torch.rand(shape)
        expected = image_score(scores, 0.01)
        np.testing.assert_allclose(exact(scores.numpy())[0], expected, rtol=1e-5)
        np.testing.assert_allclose(usual(scores.numpy())[0], expected, rtol=1e-2)
        np.testing.assert_allclose(reference.run(None, {"scores": scores.numpy()})[0], expected, rtol=1e-5)


def test_an_error_stays_where_its_surroundings_are_less_unusual():
    error = torch.tensor([[[8.0, 8.0, 8.0, 8.0, 8.0]]])
    deviation = torch.tensor([[[1.0, 4.0, 1.0, 1.0, 0.0]]])
    focused = focus(error, deviation, torch.tensor(2.0), window=3)
    torch.testing.assert_close(focused, torch.tensor([[[4.0, 8.0, 4.0, 8.0, 16 / 3]]]))
    torch.testing.assert_close(focus(error, deviation, torch.tensor(1e9), window=3), error)
