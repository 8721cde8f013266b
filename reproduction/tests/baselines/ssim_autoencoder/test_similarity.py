"""Structural similarity against its definition, window by window in float64, and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from reproduction.baselines.ssim_autoencoder.similarity import structural_similarity

C1, C2 = 1e-4, 9e-4
# That of variances in float32, which are differences of numbers up to 1, over that of C2.
ROUNDING = 5e-4


@pytest.fixture
def pair():
    """Two images that are alike on the left, and more different the further right."""
    images = torch.rand(2, 1, 20, 27)
    return images, images + torch.linspace(0, 0.5, 27) * torch.randn(2, 1, 20, 27)


def similarity_by_definition(first, second):
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    padded = [np.pad(image.double().numpy(), 5, mode="reflect") for image in (first, second)]
    result = np.empty(first.shape)
    for row, column in np.ndindex(*first.shape):
        x, y = (image[row : row + 11, column : column + 11] for image in padded)
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        variance_x, variance_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
        covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
        luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        result[row, column] = luminance * (2 * covariance + C2) / (variance_x + variance_y + C2)
    return result


def test_is_the_definition(pair):
    similarity = structural_similarity(*pair, C1, C2)
    for index in range(2):
        expected = similarity_by_definition(pair[0][index, 0], pair[1][index, 0])
        np.testing.assert_allclose(similarity[index, 0].numpy(), expected, atol=ROUNDING)


def test_is_that_of_torchmetrics(pair):
    # Its constants are given as square roots.
    _, expected = structural_similarity_index_measure(
        *pair, data_range=1.0, k1=C1**0.5, k2=C2**0.5, return_full_image=True
    )
    torch.testing.assert_close(structural_similarity(*pair, C1, C2), expected, rtol=0, atol=ROUNDING)


def test_gradient_is_that_of_the_definition():
    images = torch.rand(1, 1, 7, 6, dtype=torch.float64)
    others = torch.rand(1, 1, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: structural_similarity(images, y, C1, C2), others)


def test_half_precision_around_it_does_not_matter(pair):
    with torch.autocast("cpu", torch.bfloat16):
        similarity = structural_similarity(*pair, C1, C2)
    torch.testing.assert_close(similarity, structural_similarity(*pair, C1, C2))


def test_flat_images_that_are_alike_are_alike():
    flat = torch.full((1, 1, 16, 16), 0.7)
    torch.testing.assert_close(structural_similarity(flat, flat, C1, C2), torch.ones(1, 1, 16, 16))
