import numpy as np
import pytest
from PIL import Image

from anomalib_students.teacher import crops
from anomalib_students.teacher.crops import cut_crops


@pytest.fixture
def photograph(tmp_path):
    """A picture whose red and green values are its columns and rows, and which has no two alike in blue."""
    rows, columns = np.mgrid[:100, :160].astype(np.uint8)
    Image.fromarray(np.stack([columns, rows, rows ^ columns], axis=-1)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def plain(monkeypatch):
    """Without changes of colour."""
    for name in ("GREY", "LIGHT", "FLIP"):
        monkeypatch.setattr(crops, f"{name}_PROBABILITY", 0)


def test_the_first_crop_is_the_largest_square(photograph, plain):
    (crop,) = cut_crops(photograph, number=0, crops=1, side=100, seed=0)
    assert crop.shape == (3, 100, 100)
    left = crop[0, 0, 0]
    np.testing.assert_array_equal(crop[0], np.broadcast_to(left + np.arange(100), (100, 100)))
    np.testing.assert_array_equal(crop[1], np.broadcast_to(np.arange(100)[:, None], (100, 100)))


def test_the_others_are_squares_of_at_least_three_fifths_of_it(photograph, plain):
    sides = []
    for crop in cut_crops(photograph, number=0, crops=50, side=64, seed=0)[1:].astype(int):
        # From the middle of the first pixel to that of the last.
        width, height = (64 / 63 * np.ptp(crop[channel]) for channel in (0, 1))
        assert width == pytest.approx(height, abs=2)
        sides.append(width)
    assert min(sides) == pytest.approx(60, abs=4)
    assert max(sides) == pytest.approx(99, abs=5)


def test_crops_follow_from_photograph_number_and_seed(photograph):
    first = cut_crops(photograph, number=3, crops=4, side=32, seed=0)
    np.testing.assert_array_equal(cut_crops(photograph, number=3, crops=2, side=32, seed=0), first[:2])
    assert not np.array_equal(cut_crops(photograph, number=4, crops=4, side=32, seed=0), first)
    assert not np.array_equal(cut_crops(photograph, number=3, crops=4, side=32, seed=1), first)
    assert len(np.unique(first, axis=0)) == 4


def test_some_crops_are_grey_and_some_are_flipped(photograph):
    many = np.concatenate([cut_crops(photograph, number, crops=2, side=16, seed=0) for number in range(100)]).astype(
        int
    )
    grey = (many[:, 0] == many[:, 1]).all((1, 2))
    assert 0.1 < grey.mean() < 0.3
    flipped = many[~grey, 0, 8, 0] > many[~grey, 0, 8, -1]
    assert 0.35 < flipped.mean() < 0.65


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_a_tiny_photograph_is_enlarged(size, tmp_path):
    Image.new("L", size, 200).save(tmp_path / "a.png")
    assert cut_crops(tmp_path / "a.png", number=0, crops=3, side=16, seed=0).shape == (3, 3, 16, 16)


def test_a_damaged_photograph_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"Cannot read .*a\.jpg as an image"):
        cut_crops(tmp_path / "a.jpg", number=0, crops=1, side=16, seed=0)
