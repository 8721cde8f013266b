import numpy as np
import pytest
import torch

from anomalib_students.model.covariance import RunningCovariance, effective_dimension


def test_parts_of_any_size_give_the_covariance_of_all():
    vectors = np.random.default_rng(0).normal(1000, [1, 2, 3, 4], size=(50, 4))
    statistics = RunningCovariance(4)
    for part in np.split(vectors, [1, 8, 40]):
        statistics.update(torch.from_numpy(part))
    assert statistics.count == 50
    np.testing.assert_allclose(statistics.mean, vectors.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(vectors.T, ddof=0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_as_many_directions_as_vary_alike_are_counted(dim):
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0]
    eigenvalues = np.r_[np.full(dim, 5.0), np.zeros(8 - dim)]
    assert effective_dimension(torch.from_numpy(rotation @ np.diag(eigenvalues) @ rotation.T)) == pytest.approx(dim)


def test_directions_of_less_variance_count_less():
    assert effective_dimension(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(16 / 10)
