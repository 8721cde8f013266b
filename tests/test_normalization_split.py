import pytest

from anomalib_students.normalization_split import NormalizationSplit, split_indices

CASES = [(n_images, fraction) for n_images in (2, 3, 7, 20, 209) for fraction in (0.001, 0.1, 0.5, 0.999)]


@pytest.mark.parametrize(("n_images", "fraction"), CASES)
class TestSplitIndices:
    def test_every_image_is_on_one_side(self, n_images, fraction):
        training, held_out = split_indices(n_images, fraction)
        assert sorted(training + held_out) == list(range(n_images))

    def test_both_sides_are_sorted_and_not_empty(self, n_images, fraction):
        for side in split_indices(n_images, fraction):
            assert side == sorted(side)
            assert side

    def test_the_fraction_is_held_out(self, n_images, fraction):
        """But from few images, ten or a quarter, whose spread would not be known otherwise."""
        _, held_out = split_indices(n_images, fraction)
        assert abs(len(held_out) - max(n_images * fraction, min(10, n_images // 4))) <= 1

    def test_the_split_is_the_same_at_every_call(self, n_images, fraction):
        assert split_indices(n_images, fraction) == split_indices(n_images, fraction)


def test_a_single_image_is_on_both_sides():
    assert split_indices(1, 0.1) == ([0], [0])


def test_the_split_is_random():
    _, held_out = split_indices(100, 0.2)
    assert len(held_out) == 20
    assert held_out != list(range(20))
    assert held_out != list(range(80, 100))
    assert held_out != list(range(0, 100, 5))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="normalization_split must lie between 0 and 1, got"):
        NormalizationSplit(fraction)
