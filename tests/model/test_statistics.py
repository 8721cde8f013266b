import numpy as np
import pytest
import torch

from anomalib_students.model.statistics import RunningStatistics, effective_dimension


def accumulate(parts, covariance=False):
    statistics = RunningStatistics(parts[0].shape[1], covariance)
    for part in parts:
        statistics.update(part)
    return statistics


def uneven_parts(vectors):
    return vectors.split([1, 500, 2, 3, len(vectors) - 506])


def assert_equals_numpy(statistics, vectors, rtol=1e-10):
    values = vectors.double().numpy()
    assert float(statistics.count) == len(values)
    np.testing.assert_allclose(statistics.mean.numpy(), values.mean(axis=0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(statistics.std.numpy(), values.std(axis=0), rtol=rtol, atol=rtol)


def assert_covariance_equals_numpy(statistics, vectors):
    assert_equals_numpy(statistics, vectors)
    expected = np.cov(vectors.double().numpy().T, ddof=0)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uneven_parts_give_the_statistics_of_all_vectors_at_once(dtype):
    vectors = torch.randn(1000, 5, dtype=dtype) * torch.tensor([1.0, 1e-3, 1e3, 2.0, 0.5]) + torch.arange(5)
    assert_equals_numpy(accumulate(uneven_parts(vectors)), vectors)


def test_one_part_gives_the_statistics_of_its_vectors():
    vectors = torch.randn(20, 3)
    assert_equals_numpy(accumulate([vectors]), vectors)


def test_a_drift_between_the_parts_counts_as_deviation():
    vectors = torch.randn(600, 2, dtype=torch.float64) + torch.linspace(0, 100, 600).unsqueeze(1)
    assert_equals_numpy(accumulate(uneven_parts(vectors)), vectors)


def test_a_small_deviation_around_a_large_mean_keeps_its_digits():
    vectors = torch.randn(10_000, 2, dtype=torch.float64) + 1e6
    assert_equals_numpy(accumulate(uneven_parts(vectors)), vectors)
    assert_equals_numpy(accumulate(uneven_parts(vectors.float())), vectors.float())


def test_a_single_vector_is_the_mean_and_does_not_deviate():
    vector = torch.tensor([[3.0, -1e6]])
    statistics = accumulate([vector])
    assert torch.equal(statistics.mean, vector[0].double())
    assert torch.equal(statistics.std, torch.zeros(2, dtype=torch.float64))


def test_equal_vectors_do_not_deviate():
    statistics = accumulate([torch.full((7, 2), 0.1), torch.full((4, 2), 0.1)])
    assert (statistics.std < 1e-12).all()


def test_the_order_of_the_parts_does_not_matter():
    parts = uneven_parts(torch.randn(700, 3, dtype=torch.float64) + 10)
    forwards, backwards = accumulate(parts), accumulate(parts[::-1])
    torch.testing.assert_close(forwards.mean, backwards.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(forwards.std, backwards.std, rtol=1e-12, atol=0)


def test_merged_accumulators_give_the_statistics_of_all_their_vectors():
    vectors = torch.randn(900, 4, dtype=torch.float64) * 3 + 1e4
    workers = [accumulate([part]) for part in vectors.split([1, 99, 300, 500])]
    merged = RunningStatistics(4)
    for worker in workers:
        merged.merge(worker.moments.unsqueeze(0))
    assert_equals_numpy(merged, vectors)
    assert_equals_numpy(workers[1], vectors[1:100])


def test_merging_an_accumulator_that_has_seen_nothing_changes_nothing():
    vectors = torch.randn(10, 2)
    statistics = accumulate([vectors])
    statistics.merge(RunningStatistics(2).moments.unsqueeze(0))
    assert_equals_numpy(statistics, vectors)

    empty = RunningStatistics(2)
    empty.merge(RunningStatistics(2).moments.unsqueeze(0))
    assert empty.count == 0
    assert torch.equal(empty.mean, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("covariance", [False, True])
def test_accumulators_of_many_workers_are_merged_at_once(covariance):
    vectors = torch.randn(300, 4, dtype=torch.float64) * 3 + 1e4
    # The last worker has seen nothing.
    workers = [accumulate([part], covariance) for part in vectors.split([1, 99, 200])]
    workers.append(RunningStatistics(4, covariance))
    merged = RunningStatistics(4, covariance)
    merged.merge(torch.stack([worker.moments for worker in workers]))
    (assert_covariance_equals_numpy if covariance else assert_equals_numpy)(merged, vectors)


def test_an_accumulator_goes_on_from_what_others_have_seen():
    vectors = torch.randn(50, 2)
    first, second = accumulate([vectors[:30]]), RunningStatistics(2)
    second.merge(first.moments.unsqueeze(0))
    second.update(vectors[30:])
    assert_equals_numpy(second, vectors)
    assert_equals_numpy(first, vectors[:30])


def test_uneven_parts_give_the_covariance_of_all_vectors_at_once():
    vectors = torch.from_numpy(np.random.default_rng(0).normal(1000, [1, 2, 3, 4], size=(50, 4)))
    statistics = accumulate(vectors.split([1, 7, 32, 10]), covariance=True)
    assert_covariance_equals_numpy(statistics, vectors)
    np.testing.assert_allclose(statistics.mean, vectors.numpy().mean(axis=0), rtol=1e-12)


def test_no_gradient_is_kept_of_the_vectors():
    statistics = accumulate([torch.randn(5, 2, requires_grad=True)])
    assert not statistics.mean.requires_grad
    assert not statistics.std.requires_grad


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_as_many_directions_as_vary_alike_are_counted(dim):
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0]
    eigenvalues = np.r_[np.full(dim, 5.0), np.zeros(8 - dim)]
    assert effective_dimension(torch.from_numpy(rotation @ np.diag(eigenvalues) @ rotation.T)) == pytest.approx(dim)


def test_directions_of_less_variance_count_less():
    assert effective_dimension(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(16 / 10)
