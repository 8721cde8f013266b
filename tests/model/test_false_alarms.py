"""Margins keep the rate that they promise, and the fit is the textbook's."""

from itertools import combinations
from math import log

import numpy as np
import pytest
import torch

from anomalib_students.false_alarms import FEWEST, fit_gumbel, is_usual, margin


@pytest.mark.parametrize(("n_images", "n_learnt"), [(5, 0), (21, 0), (60, 0), (10, 50), (30, 1)])
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_that_many_trainings_have_the_expected_rate_and_interval(n_images: int, n_learnt: int, rate: float) -> None:
    """By other samples than those of the margin, of another location and scale, and through the fit itself."""
    generator = np.random.default_rng(1)
    location, scale = -7.0, 3.0
    promised = margin(n_images, rate, n_learnt)
    rates = []
    for sample in generator.gumbel(location, scale, size=(4000, n_images + n_learnt)):
        fitted = fit_gumbel(torch.from_numpy(sample[n_learnt:]), torch.from_numpy(sample[:n_learnt]))
        threshold = fitted.location + promised.scales * fitted.scale
        rates.append(1 - np.exp(-np.exp(-(threshold - location) / scale)))
    rates = np.array(rates)
    # Four standard errors of both simulations.
    assert rates.mean() == pytest.approx(rate, abs=4 * rates.std() * (1 / 4000 + 1 / 20_000) ** 0.5)
    assert ((rates > promised.lower) & (rates < promised.upper)).mean() == pytest.approx(0.9, abs=0.025)


def test_that_the_margin_approaches_the_quantile() -> None:
    margins = [margin(n_images, 0.01).scales for n_images in (FEWEST, 10, 30, 100, 500)]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] == pytest.approx(-log(-log(0.99)), rel=0.01)
    assert margin(10_000, 0.01) == margin(500, 0.01)
    assert margin(10, 0.01, 50).scales < margin(10, 0.01).scales


def test_that_the_scale_is_the_mean_difference_of_pairs() -> None:
    """The second L-moment is half the mean absolute difference of two scores."""
    scores, learnt = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).split((12, 8))
    own, other = (np.mean([abs(float(a - b)) for a, b in combinations(x, 2)]) / 2 / log(2) for x in (scores, learnt))
    raised = other + float(scores.mean() - learnt.mean()) / 4
    fits = (fit_gumbel(scores), own), (fit_gumbel(scores, learnt), (12 * own + 8 * raised) / 20)
    for fitted, scale in fits:
        assert fitted.scale == pytest.approx(scale)
        assert fitted.location == pytest.approx(float(scores.mean()) - np.euler_gamma * scale)


def test_that_equal_scores_leave_room() -> None:
    fitted = fit_gumbel(torch.full((20,), 3.0))
    assert fitted.location + margin(20, 0.01).scales * fitted.scale > 3.1


@pytest.mark.parametrize("n_images", [1, 2, FEWEST - 1])
def test_that_the_spread_of_very_few_images_is_not_trusted(n_images: int) -> None:
    fitted = fit_gumbel(torch.linspace(2.0, 2.01, n_images))
    assert fitted.scale == pytest.approx(fitted.location / 4)
    assert margin(n_images, 0.01)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [1.0, float("inf")]])
def test_that_senseless_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="needs the finite scores of at least one good image"):
        fit_gumbel(torch.tensor(scores))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_that_senseless_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="false_alarm_rate must lie between 0 and 1"):
        margin(20, rate)


def test_that_a_mislabelled_image_is_found_and_others_are_kept() -> None:
    generator = np.random.default_rng(2)
    samples = torch.from_numpy(generator.gumbel(3.0, 0.5, size=(2000, 27)))
    kept = torch.stack([is_usual(sample) for sample in samples])
    # Of 27 images, whose quartiles are known only about, more than 1 in 10,000 are beyond; still hardly any.
    assert (~kept).float().mean() < 0.003
    samples[:, 5] = 12.0
    found = torch.stack([~is_usual(sample) for sample in samples])
    assert found[:, 5].float().mean() > 0.98
    assert not (~is_usual(torch.tensor([1.0, 1.1, 9.0]))).any()
