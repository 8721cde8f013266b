import torch
from hypothesis import given
from hypothesis import strategies as st

from anomalib_students.model.hold_out import sample_indices, sample_learnt, split_indices


@given(st.integers(2, 300), st.floats(0.001, 0.999))
def test_images_are_on_one_side_each_in_their_order_and_the_fraction_is_held_out(n_images, fraction):
    training, held_out = split_indices(n_images, fraction)
    assert sorted(training + held_out) == list(range(n_images))
    for side in (training, held_out):
        assert side == sorted(side)
        assert side
    # But from few images, ten or a quarter, whose spread would not be known otherwise.
    assert abs(len(held_out) - max(n_images * fraction, min(10, n_images // 4))) <= 1


def test_a_single_image_is_on_both_sides():
    assert split_indices(1, 0.1) == ([0], [0])


def test_the_split_is_the_same_whatever_was_drawn_before():
    """So that a resumed training holds out the same images."""
    torch.manual_seed(1)
    first = split_indices(100, 0.2)
    torch.manual_seed(2)
    assert split_indices(100, 0.2) == first


def test_statistics_and_hold_out_take_at_most_300_images():
    training, held_out = split_indices(10_000, 0.1)
    assert (len(training), len(held_out)) == (9_700, 300)
    assert sample_indices(240) == list(range(240))
    sample = sample_indices(10_000)
    assert len(set(sample)) == 300
    assert sample == sorted(sample) == sample_indices(10_000)


def test_images_learnt_from_are_spread_evenly_and_none_of_few():
    assert sample_learnt(list(range(29)), 10) == []
    assert sample_learnt(list(range(30)), 50) == list(range(30))
    assert sample_learnt(list(range(0, 500, 2)), 50) == list(range(0, 500, 10))
    assert len(sample_learnt(list(range(99)), 50)) == 99
