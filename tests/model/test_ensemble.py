import pytest
import torch
from sklearn.linear_model import Ridge

from anomalib_students.model.anomaly_map import predictive_uncertainty, regression_error
from anomalib_students.model.ensemble import RIDGE, StudentTeacherEnsemble
from anomalib_students.model.statistics import RunningStatistics
from anomalib_students.networks.dense import Patches

pytestmark = pytest.mark.usefixtures("narrow_networks")

DIM = 6


@pytest.fixture
def ensemble():
    torch.manual_seed(0)
    return StudentTeacherEnsemble(33, n_students=2, descriptor_dim=DIM)


def make_vectors(n=5000):
    """Descriptors that are not quite normalised, errors that depend on them, and uncertainties."""
    generator = torch.Generator().manual_seed(1)
    descriptors = 0.8 * torch.randn(n, DIM, generator=generator, dtype=torch.float64) + 0.1
    slope = torch.randn(DIM, generator=generator, dtype=torch.float64)
    error = 20 + descriptors @ slope + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    uncertainty = 3 + torch.rand(n, generator=generator, dtype=torch.float64)
    return descriptors, error, uncertainty


def statistics_of(descriptors, error, uncertainty):
    statistics = RunningStatistics(DIM + 2, covariance=True)
    statistics.update(torch.cat([descriptors, error[:, None], uncertainty[:, None]], dim=1))
    return statistics


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_what_is_left_of_the_error_is_normalised(ensemble, part):
    descriptors, error, uncertainty = make_vectors()
    ensemble.normalise_scores(statistics_of(descriptors, error, uncertainty), part)
    alpha = len(error) * (RIDGE + DIM / len(error))
    regression = Ridge(alpha=alpha).fit(descriptors.numpy(), error.numpy())
    torch.testing.assert_close(
        ensemble.error_weight, part * torch.from_numpy(regression.coef_), check_dtype=False, rtol=1e-5, atol=1e-6
    )
    left = error - descriptors @ ensemble.error_weight.double()
    assert float(ensemble.error_mean) == pytest.approx(float(left.mean()), rel=1e-5)
    assert float(ensemble.error_std) == pytest.approx(float(left.std(correction=0)), rel=1e-4)
    assert ensemble.error_std < error.std()
    assert float(ensemble.uncertainty_std) == pytest.approx(float(uncertainty.std(correction=0)), rel=1e-5)


def test_without_an_expected_error_the_statistics_are_those_of_equation_11(ensemble):
    descriptors, error, uncertainty = make_vectors()
    ensemble.normalise_scores(statistics_of(descriptors, error, uncertainty))
    assert not ensemble.error_weight.any()
    assert float(ensemble.error_mean) == pytest.approx(float(error.mean()))
    assert float(ensemble.error_std) == pytest.approx(float(error.std(correction=0)))


def test_few_patches_change_the_expectation_little(ensemble):
    descriptors, error, uncertainty = make_vectors(n=8)
    # With more components than patches, a plain regression would explain everything.
    ensemble.normalise_scores(statistics_of(descriptors, error, uncertainty), expected_error=1.0)
    assert 0.2 * error.std(correction=0) < ensemble.error_std < error.std(correction=0)


def test_vectors_are_descriptors_and_scores_side_by_side(ensemble):
    patches = Patches(torch.rand(2, 3, 37, 41))
    vectors = ensemble.score_vectors(patches)
    students, target = ensemble.describe(patches)
    error, uncertainty = regression_error(students, target), predictive_uncertainty(students)
    assert vectors.shape == (error.numel(), DIM + 2)
    torch.testing.assert_close(vectors[:, :DIM], target.movedim(1, -1).flatten(0, -2))
    torch.testing.assert_close(vectors[:, DIM:], torch.stack([error.flatten(), uncertainty.flatten()], dim=1))


def test_a_state_of_before_expects_the_mean(ensemble):
    state = {name: value for name, value in ensemble.state_dict().items() if name != "error_weight"}
    ensemble.error_weight.fill_(1.0)
    ensemble.load_state_dict(state)
    assert not ensemble.error_weight.any()
