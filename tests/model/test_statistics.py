import numpy as np
import pytest
import torch

from anomalib_students.model.statistics import RunningStatistics


def accumulate(parts):
    statistics = RunningStatistics(parts[0].shape[1])
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
        merged.merge(worker)
    assert_equals_numpy(merged, vectors)
    assert_equals_numpy(workers[1], vectors[1:100])


def test_merging_an_accumulator_that_has_seen_nothing_changes_nothing():
    vectors = torch.randn(10, 2)
    statistics = accumulate([vectors])
    statistics.merge(RunningStatistics(2))
    assert_equals_numpy(statistics, vectors)

    empty = RunningStatistics(2)
    empty.merge(RunningStatistics(2))
    assert empty.count == 0
    assert torch.equal(empty.mean, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("dim", [1, 4])
def test_workers_exchange_accumulators_as_vectors(dim):
    vectors = torch.randn(300, dim, dtype=torch.float64) * 3 + 1e4
    # The last worker has seen nothing.
    packed = [accumulate([part]).pack() for part in vectors.split([1, 99, 200])] + [RunningStatistics(dim).pack()]
    merged = RunningStatistics(dim)
    for vector in packed:
        assert vector.shape == (1 + 2 * dim,)
        merged.merge(RunningStatistics.unpack(vector))
    assert_equals_numpy(merged, vectors)
    assert merged.count.shape == ()


def test_an_accumulator_goes_on_from_its_state_dict():
    vectors = torch.randn(50, 2)
    first, second = accumulate([vectors[:30]]), RunningStatistics(2)
    second.load_state_dict(first.state_dict())
    second.update(vectors[30:])
    assert_equals_numpy(second, vectors)


def test_no_gradient_is_kept_of_the_vectors():
    statistics = accumulate([torch.randn(5, 2, requires_grad=True)])
    assert not statistics.mean.requires_grad
    assert not statistics.std.requires_grad
