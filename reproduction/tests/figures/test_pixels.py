import numpy as np
import pytest

from reproduction.figures.pixels import Pixels, PixelSampler


def make_pixels(numbers, is_anomalous):
    """Pixels whose every value is their number."""
    numbers = np.asarray(numbers, float)
    return Pixels(
        teacher=np.stack([numbers, -numbers], axis=1),
        students=np.stack([numbers + 0.5, numbers - 0.5], axis=1),
        uncertainty=numbers**2,
        score=numbers,
        is_anomalous=np.asarray(is_anomalous, bool),
    )


@pytest.fixture
def parts():
    """100 pixels in parts of different size; every third is anomalous."""
    return [
        make_pixels(numbers, numbers % 3 == 0)
        for numbers in np.split(np.random.default_rng(0).permutation(100), [1, 30, 31, 60])
    ]


@pytest.mark.parametrize("n_pixels", [1, 7, 33])
def test_drawn_pixels_are_whole_and_of_their_class(parts, n_pixels):
    sampler = PixelSampler(n_pixels)
    for part in parts:
        sampler.add(part)
    drawn = sampler.drawn
    assert drawn.is_anomalous.tolist() == [False] * n_pixels + [True] * n_pixels
    assert np.array_equal(drawn.score % 3 == 0, drawn.is_anomalous)
    assert len(set(drawn.score)) == 2 * n_pixels
    for found, expected in zip(drawn, make_pixels(drawn.score, drawn.is_anomalous), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_where_there_are_fewer_pixels_all_are_drawn(parts):
    sampler = PixelSampler(50)
    for part in parts:
        sampler.add(part)
    assert sorted(sampler.drawn.score[sampler.drawn.is_anomalous]) == list(range(0, 100, 3))
    assert sum(~sampler.drawn.is_anomalous) == 50


def test_a_class_without_pixels_is_empty():
    sampler = PixelSampler(5)
    sampler.add(make_pixels(range(8), [False] * 8))
    assert len(sampler.drawn.score) == 5
    assert len(sampler.scores(is_anomalous=True)) == 0


def test_scores_of_all_pixels_are_kept(parts):
    sampler = PixelSampler(2)
    for part in parts:
        sampler.add(part)
    assert sorted(sampler.scores(is_anomalous=True)) == list(range(0, 100, 3))
    assert sorted(sampler.scores(is_anomalous=False)) == [number for number in range(100) if number % 3]


def test_each_pixel_is_as_likely_to_be_drawn_whatever_part_it_is_in():
    draws, counts = 2000, np.zeros(20)
    for seed in range(draws):
        sampler = PixelSampler(5, seed)
        for numbers in np.split(np.arange(20), [2, 12, 13]):
            sampler.add(make_pixels(numbers, [True] * len(numbers)))
        counts[sampler.drawn.score.astype(int)] += 1
    # Five standard deviations of a binomial distribution.
    np.testing.assert_allclose(counts, draws / 4, atol=5 * (draws * 0.25 * 0.75) ** 0.5)


def test_the_draw_depends_on_nothing_but_its_seed(parts):
    scores = []
    for seed in (0, 0, 1):
        sampler = PixelSampler(5, seed)
        for part in parts:
            sampler.add(part)
        scores.append(sampler.drawn.score.tolist())
    assert scores[0] == scores[1] != scores[2]
