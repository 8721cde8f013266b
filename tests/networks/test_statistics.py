"""Statistics of vectors that arrive in chunks, against numpy's of all at once."""

import numpy as np
import pytest
import torch

from anomalib_students.networks.statistics import RunningStatistics

N = 900
VECTORS = {
    "of many sizes": torch.randn(N, 5) * torch.tensor([1.0, 1e-3, 1e3, 2.0, 0.5]) + torch.arange(5),
    "drifting": torch.randn(N, 2).double() + torch.linspace(0, 100, N).unsqueeze(1),
    "around a large mean": torch.randn(N, 3).double() + 1e6,
    "alike": torch.full((N, 2), 0.1),
}
CHUNKS = [1, 500, 2, 3, N - 506]


def accumulate(chunks, covariance=False):
    statistics = RunningStatistics(chunks[0].shape[1], covariance)
    for chunk in chunks:
        statistics.update(chunk)
    return statistics


def assert_equals_numpy(statistics, vectors):
    values = vectors.double().numpy()
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert float(statistics.count) == len(values)
    np.testing.assert_allclose(statistics.mean.numpy(), values.mean(axis=0), **close)
    np.testing.assert_allclose(statistics.std.numpy(), values.std(axis=0), **close)
    if len(statistics.moments) > 3:
        np.testing.assert_allclose(statistics.covariance, np.cov(values.T, ddof=0), **close)


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS)
def test_chunks_in_any_order_and_of_any_process_give_the_statistics_of_all_vectors_at_once(vectors, covariance):
    chunks = vectors.split(CHUNKS)
    assert_equals_numpy(accumulate(chunks, covariance), vectors)
    assert_equals_numpy(accumulate(chunks[::-1], covariance), vectors)
    # The last process has seen nothing.
    processes = [accumulate([chunk], covariance) for chunk in chunks]
    processes.append(RunningStatistics(vectors.shape[1], covariance))
    moments = [process.moments.clone() for process in processes]
    for process in processes:
        with process.sync_context(dist_sync_fn=lambda *_, **__: moments, distributed_available=lambda: True):
            assert_equals_numpy(process, vectors)
    assert_equals_numpy(processes[1], chunks[1])


def test_nothing_and_a_single_vector_do_not_deviate():
    statistics = RunningStatistics(2)
    assert statistics.count == 0
    assert torch.equal(statistics.mean, torch.zeros(2, dtype=torch.float64))
    vector = torch.tensor([[3.0, -1e6]], requires_grad=True)
    statistics.update(vector)
    assert not statistics.mean.requires_grad
    assert torch.equal(statistics.mean, vector[0].double())
    assert torch.equal(statistics.std, torch.zeros(2, dtype=torch.float64))
