import pytest
import torch

from reproduction.baselines.descriptor_sample import DescriptorSample


def test_every_descriptor_is_as_likely_as_any_other():
    counts = torch.zeros(60)
    for _ in range(500):
        sample = DescriptorSample(size=12)
        for part in torch.arange(60.0)[:, None].split([5, 40, 1, 14]):
            sample.update(part)
        drawn = sample.descriptors.squeeze(1).long()
        assert len(drawn.unique()) == 12
        counts[drawn] += 1
    # Each count is binomial: 100 on average, with a standard deviation of 9.
    assert (counts - 100).abs().max() < 5 * 9


def test_fewer_descriptors_than_the_sample_takes_are_all_kept():
    sample = DescriptorSample(size=100)
    parts = torch.randn(3, 20, 4)
    for part in parts:
        sample.update(part)
    assert sample.descriptors.shape == (60, 4)
    torch.testing.assert_close(sample.descriptors.sort(dim=0).values, parts.flatten(0, 1).sort(dim=0).values)


def test_half_precision_comes_out_in_full():
    sample = DescriptorSample(size=2)
    sample.update(torch.ones(5, 3, dtype=torch.bfloat16))
    assert sample.descriptors.dtype == torch.float32


def test_empty_sample_is_one_clear_error():
    with pytest.raises(ValueError, match="n_samples"):
        DescriptorSample(size=0)
