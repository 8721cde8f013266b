import numpy as np
import pytest
import torch

from anomalib_students.model.statistics import RunningStatistics
from anomalib_students.teacher.principal_components import PrincipalComponents

CHANNELS = [3, 2]
WEIGHTS = [1.0, 0.7]


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    mixed = random.normal(size=(200, 5)) @ random.normal(size=(5, 5))
    return mixed * [100, 100, 100, 0.01, 0.01] + [1000, 0, 0, 1, 1]


def fit(features, n_components):
    statistics = RunningStatistics(features.shape[1], covariance=True)
    statistics.update(torch.from_numpy(features))
    return PrincipalComponents.fit(statistics, CHANNELS, WEIGHTS, n_components)


def expected_components(features, n_components):
    blocks = []
    for block, weight in zip(np.split(features, np.cumsum(CHANNELS)[:-1], axis=1), WEIGHTS, strict=True):
        centred = block - block.mean(0)
        blocks.append(weight * centred / np.sqrt((centred**2).sum(1).mean()))
    scaled = np.concatenate(blocks, axis=1)
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    variances = singular[:n_components] ** 2 / len(features)
    return scaled @ directions[:n_components].T / np.sqrt(variances + 0.1 * variances.mean())


@pytest.mark.parametrize("n_components", [1, 3, 5])
def test_components_are_those_of_weighted_blocks_of_equal_variance(features, n_components):
    components = fit(features, n_components)(torch.from_numpy(features).float()).numpy()
    expected = expected_components(features, n_components)
    # The sign of a component is open.
    signs = np.sign((components * expected).sum(0))
    np.testing.assert_allclose(components * signs, expected, atol=1e-3)


def test_components_are_uncorrelated_and_centred(features):
    components = fit(features, 4)(torch.from_numpy(features).float()).numpy()
    np.testing.assert_allclose(components.mean(0), 0, atol=1e-3)
    covariance = np.cov(components.T, ddof=0)
    np.testing.assert_allclose(covariance - np.diag(covariance.diagonal()), 0, atol=1e-3)
    assert (covariance.diagonal() < 1).all()


def test_features_that_do_not_vary_are_no_reason_to_fail(features):
    components = fit(np.ones_like(features), 5)(torch.ones(4, 5))
    torch.testing.assert_close(components, torch.zeros(4, 5))


def test_a_file_keeps_the_map(features, tmp_path):
    components = fit(features, 2)
    components.save(tmp_path / "components.safetensors")
    vectors = torch.randn(3, 5)
    assert torch.equal(PrincipalComponents.load(tmp_path / "components.safetensors")(vectors), components(vectors))
