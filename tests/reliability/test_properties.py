"""Properties of the core that hold for all sizes, dtypes and magnitudes, on examples that hypothesis draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from anomalib_students.model.anomaly_map import (
    combine_scales,
    image_score,
    normalised_score,
    prediction,
    predictive_uncertainty,
    regression_error,
    upsample,
)
from anomalib_students.model.loss import regression_loss, squared_distances
from anomalib_students.model.metrics import AUROC
from anomalib_students.model.statistics import RunningStatistics, effective_dimension
from anomalib_students.networks import patch_network
from anomalib_students.networks.dense import OUTPUT_STRIDES, cut_tiles, dense_descriptors
from anomalib_students.teacher.losses import compactness_loss, triplet_loss

from ..networks.test_dense import describe_cropped_patches, make_network, sample_positions

SEEDS = st.integers(0, 2**32 - 1)
MAGNITUDES = st.sampled_from([1e-3, 1.0, 1e3])
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
NETWORKS = st.sampled_from([(name, size) for name, sizes in patch_network.ARCHITECTURES.items() for size in sizes])


def draw(seed: int, *shape: int, magnitude: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normally distributed numbers."""
    return torch.from_numpy(magnitude * np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.usefixtures("narrow_networks")
class TestDense:
    @given(NETWORKS, st.integers(1, 40), st.integers(1, 40), st.sampled_from(OUTPUT_STRIDES), SEEDS)
    def test_each_descriptor_is_that_of_its_patch(self, network, height, width, stride, seed):
        architecture, patch_size = network
        torch.manual_seed(seed)
        network = make_network(patch_size, architecture=architecture)
        images = draw(seed, 2, 3, height, width)
        dense = dense_descriptors(network, images, stride)
        positions = sample_positions(*dense.shape[-2:], limit=6)
        patches = describe_cropped_patches(
            network, images, [(row * stride, column * stride) for row, column in positions]
        )
        for (row, column), expected in zip(positions, patches, strict=True):
            torch.testing.assert_close(dense[..., row, column], expected, rtol=1e-9, atol=1e-9)

    @given(NETWORKS, st.integers(1, 60), st.integers(1, 60), st.sampled_from(OUTPUT_STRIDES), st.integers(8, 40), SEEDS)
    def test_tiles_are_the_whole(self, network, height, width, stride, max_tile, seed):
        architecture, patch_size = network
        torch.manual_seed(seed)
        network = make_network(patch_size, architecture=architecture)
        images = draw(seed, 1, 3, height, width)
        whole = dense_descriptors(network, images, stride)
        rows = [
            torch.cat([dense_descriptors(network, tile, stride, padded=True) for tile in row], dim=-1)
            for row in cut_tiles(images, patch_size, stride, max_tile)
        ]
        joined = torch.cat(rows, dim=-2)
        torch.testing.assert_close(joined, whole, rtol=1e-9, atol=1e-9)


class TestLosses:
    @given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 40), st.floats(0.01, 1), MAGNITUDES, DTYPES, SEEDS)
    def test_regression_loss(self, students, dim, side, fraction, magnitude, dtype, seed):
        drawn = draw(seed, students, 1, dim, 1, side, magnitude=magnitude, dtype=dtype)
        target = draw(seed + 1, 1, dim, 1, side, magnitude=magnitude, dtype=dtype)
        actual = squared_distances(drawn, target)
        loss = regression_loss(actual, fraction)
        distances = (drawn.double() - target.double()).square().sum(dim=2).view(students, side)
        hardest = distances.sort(dim=1, descending=True).values[:, : max(1, round(fraction * side))]
        assert float(loss) == pytest.approx(float(hardest.mean(dim=1).sum()), rel=1e-4)
        # The hardest pixels are harder than all.
        assert loss >= regression_loss(actual) * (1 - 1e-5)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(side))
        torch.testing.assert_close(regression_loss(actual[..., order], fraction), loss, rtol=1e-5, atol=0)
        of_larger = regression_loss(squared_distances(4 * drawn, 4 * target), fraction)
        torch.testing.assert_close(of_larger, 16 * loss, rtol=1e-4, atol=0)
        assert not squared_distances(target[None], target).any()

    @given(st.integers(1, 8), st.integers(1, 8), MAGNITUDES, st.floats(1e-3, 1e3), SEEDS)
    def test_triplet_loss(self, batch, dim, magnitude, margin, seed):
        anchors, positives, negatives = draw(seed, 3, batch, dim, magnitude=magnitude)
        loss = triplet_loss(anchors, positives, negatives, margin)
        assert loss >= 0
        # Anchor and positive are alike to it, and only differences count.
        torch.testing.assert_close(triplet_loss(positives, anchors, negatives, margin), loss)
        shift = draw(seed + 1, dim)
        torch.testing.assert_close(triplet_loss(anchors + shift, positives + shift, negatives + shift, margin), loss)
        assert triplet_loss(anchors, positives, anchors, margin) >= margin * (1 - 1e-9)

    @given(st.integers(2, 20), st.integers(1, 6), MAGNITUDES, SEEDS)
    def test_compactness_loss(self, batch, dim, magnitude, seed):
        descriptors = draw(seed, batch, dim)
        loss = compactness_loss(descriptors)
        assert 0 <= loss <= dim * (dim - 1) + 1e-9
        scaled = magnitude * descriptors * torch.tensor([(-1.0) ** index for index in range(dim)]) + 3.0
        torch.testing.assert_close(compactness_loss(scaled), loss, rtol=1e-6, atol=1e-6)
        if batch > 2:
            correlations = np.abs(np.atleast_2d(np.corrcoef(descriptors.numpy().T)))
            assert float(loss) == pytest.approx(correlations.sum() - dim, rel=1e-6, abs=1e-6)


class TestScores:
    @given(st.integers(1, 4), st.integers(1, 6), MAGNITUDES, DTYPES, SEEDS)
    def test_error_and_uncertainty_add_up_to_the_distance_of_the_students(self, students, dim, magnitude, dtype, seed):
        """Bias and variance; in float32 at least, whatever the descriptors are in."""
        drawn = draw(seed, students, 2, dim, 3, 4, magnitude=magnitude, dtype=dtype)
        target = draw(seed + 1, 2, dim, 3, 4, magnitude=magnitude, dtype=dtype)
        error, uncertainty = regression_error(drawn, target), predictive_uncertainty(drawn)
        assert error.dtype == uncertainty.dtype == torch.float32
        assert (error >= 0).all()
        assert (uncertainty >= 0).all()
        distance = (drawn.double() - target.double()).square().sum(dim=2).mean(dim=0)
        torch.testing.assert_close((error + uncertainty).double(), distance, rtol=1e-4, atol=1e-5 * magnitude**2)
        if students == 1:
            assert (uncertainty == 0).all()
        order = list(reversed(range(students)))
        close = {"rtol": 1e-4, "atol": 1e-5 * magnitude**2}
        torch.testing.assert_close(regression_error(drawn[order], target), error, **close)
        torch.testing.assert_close(predictive_uncertainty(drawn[order]), uncertainty, **close)

    @given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), SEEDS)
    def test_normalised_scores_keep_the_order(self, mean, std, seed):
        values = draw(seed, 50).square().sort().values
        normalised = normalised_score(values, torch.tensor(mean), torch.tensor(std))
        assert (normalised.diff() >= 0).all()
        torch.testing.assert_close(normalised * std + mean, values, rtol=1e-6, atol=1e-6 * (1 + abs(mean)))

    @given(st.integers(1, 4), SEEDS)
    def test_scales_have_no_order(self, scales, seed):
        maps = list(draw(seed, scales, 1, 1, 5, 7))
        for order in itertools.islice(itertools.permutations(maps), 6):
            torch.testing.assert_close(combine_scales(order), sum(maps) / scales)

    @given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(OUTPUT_STRIDES), MAGNITUDES, SEEDS)
    def test_interpolated_maps(self, height, width, stride, magnitude, seed):
        given_scores = draw(seed, 1, 1, math.ceil(height / stride), math.ceil(width / stride), magnitude=magnitude)
        full = upsample(given_scores, stride, (height, width))
        assert full.shape == (1, 1, height, width)
        torch.testing.assert_close(full[..., ::stride, ::stride], given_scores, rtol=1e-9, atol=1e-9 * magnitude)
        slack = 1e-9 * magnitude
        assert given_scores.min() - slack <= full.min()
        assert full.max() <= given_scores.max() + slack


class TestImageScore:
    sizes = st.integers(1, 24)
    windows = st.sampled_from([1, 3, 5, 9, 33])

    @given(sizes, sizes, windows, MAGNITUDES, st.sampled_from([torch.float32, torch.float64]), SEEDS)
    def test_is_the_largest_mean_of_a_window(self, height, width, window, magnitude, dtype, seed):
        scores = draw(seed, 2, 1, height, width, magnitude=magnitude, dtype=dtype)
        means = [
            scores[
                ...,
                max(0, row - window // 2) : row + window // 2 + 1,
                max(0, column - window // 2) : column + window // 2 + 1,
            ]
            .double()
            .mean(dim=(1, 2, 3))
            for row in range(height)
            for column in range(width)
        ]
        expected = torch.stack(means).amax(dim=0).to(dtype)
        close = {"rtol": 1e-5, "atol": 1e-5 * magnitude}
        score = image_score(scores, window)
        torch.testing.assert_close(score, expected, **close)
        for alike in (scores.flip(-1), scores.flip(-2), scores.mT):
            torch.testing.assert_close(image_score(alike, window), score, **close)
        torch.testing.assert_close(image_score(4 * scores, window), 4 * score)
        shifted = image_score(scores + 2 * magnitude, window)
        torch.testing.assert_close(shifted, score + 2 * magnitude, rtol=1e-5, atol=1e-5 * magnitude)
        torch.testing.assert_close(image_score(scores.flip(0), window), score.flip(0))

    @given(sizes, sizes, windows, st.floats(0, 1e4), SEEDS)
    def test_does_not_fall_where_a_pixel_is_worse(self, height, width, window, more, seed):
        scores = draw(seed, 1, 1, height, width)
        worse = scores.clone()
        worse.view(-1)[seed % scores.numel()] += more
        assert image_score(worse, window) >= image_score(scores, window) - 1e-9
        assert image_score(worse, window) <= worse.max() + 1e-9


BROKEN = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 5.1e4])


class TestNothingBrokenIsGood:
    @given(BROKEN, st.integers(1, 12), st.integers(1, 12), st.sampled_from([torch.float32, torch.float64]), SEEDS)
    def test_a_broken_pixel_anywhere(self, value, height, width, dtype, seed):
        """Though the scores themselves look like those of good images."""
        images, scores = draw(seed, 3, 3, height, width, dtype=dtype), torch.full((3, 1, height, width), -5.0)
        prediction(scores, images)
        place = seed % images.numel()
        images.view(-1)[place] = value
        with pytest.raises(ValueError, match=rf"no score for the images \[{place // images[0].numel()}\] of the batch"):
            prediction(scores, images)

    @given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(1, 12), st.sampled_from([1, 3, 9]), SEEDS)
    def test_a_broken_score_anywhere(self, value, side, window, seed):
        images, scores = draw(seed, 2, 3, side, side), draw(seed, 2, 1, side, side)
        scores.view(-1)[seed % scores.numel()] = value
        with pytest.raises(ValueError, match="no score for the images"):
            prediction(scores, images, score_window=window)

    @given(BROKEN, st.integers(1, 12), st.sampled_from([1, 3, 9]), SEEDS)
    def test_in_exported_models_the_score_is_infinite(self, value, side, window, seed):
        images, scores = draw(seed, 2, 3, side, side), draw(seed, 2, 1, side, side)
        images[1].view(-1)[seed % images[1].numel()] = value
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: True)
            predicted = prediction(scores, images, score_window=window)
        assert predicted.pred_score[0].isfinite()
        assert predicted.pred_score[1] == math.inf
        assert not predicted.anomaly_map.isnan().any()


class TestStatistics:
    @given(
        st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([0.0, 1.0, 1e7]), SEEDS
    )
    def test_parts_in_any_order_are_the_whole(self, dim, sizes, mean, seed):
        vectors = draw(seed, sum(sizes), dim) + mean
        parts = vectors.split(sizes)
        sequence, merged, covariance = (RunningStatistics(dim, covariance=full) for full in (False, False, True))
        for part in parts:
            sequence.update(part)
            covariance.update(part)
        for part in reversed(parts):
            other = RunningStatistics(dim)
            other.update(part)
            merged.merge(other.moments.unsqueeze(0))
        expected = vectors.numpy()
        for statistics in (sequence, merged):
            assert int(statistics.count) == len(expected)
            np.testing.assert_allclose(statistics.mean, expected.mean(axis=0), rtol=1e-12, atol=1e-9)
            np.testing.assert_allclose(statistics.std, expected.std(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(
            covariance.covariance, np.atleast_2d(np.cov(expected.T, bias=True)), rtol=1e-6, atol=1e-7
        )
        assume(len(expected) > dim)
        assert 1 - 1e-9 <= effective_dimension(covariance.covariance) <= dim + 1e-9

    @given(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]), MAGNITUDES, SEEDS)
    def test_half_precision_is_added_up_in_double(self, dtype, magnitude, seed):
        vectors = draw(seed, 3000, 2, magnitude=magnitude, dtype=dtype) + magnitude
        statistics = RunningStatistics(2)
        for part in vectors.split(700):
            statistics.update(part)
        np.testing.assert_allclose(statistics.mean, vectors.double().mean(dim=0), rtol=1e-9)
        np.testing.assert_allclose(statistics.std, vectors.double().std(dim=0, correction=0), rtol=1e-9)


class TestAreaUnderTheCurve:
    @staticmethod
    def area(scores: torch.Tensor, labels: torch.Tensor) -> float:
        metric = AUROC(fields=["pred_score", "gt_label"])
        images = torch.zeros(len(scores), 3, 1, 1)
        metric.update(ImageBatch(image=images, pred_score=scores, gt_label=labels))
        return float(metric.compute())

    @given(st.lists(st.integers(-20, 20), min_size=2, max_size=40), st.sampled_from([1e-6, 1.0, 1e5, 1e30]), SEEDS)
    def test_depends_on_the_order_alone(self, levels, magnitude, seed):
        """With ties, and at any magnitude."""
        labels = torch.from_numpy(np.random.default_rng(seed).integers(2, size=len(levels))).bool()
        assume(labels.any() and not labels.all())
        scores = torch.tensor(levels, dtype=torch.float32)
        expected = roc_auc_score(labels.numpy(), scores.numpy())
        assert self.area(magnitude * scores, labels) == pytest.approx(expected, abs=1e-6)
        assert self.area(-magnitude * scores, labels) == pytest.approx(1 - expected, abs=1e-6)
        assert self.area(torch.sign(scores) * scores.square() + 7, labels) == pytest.approx(expected, abs=1e-6)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(levels)))
        assert self.area(scores[order], labels[order]) == pytest.approx(expected, abs=1e-6)
        scores[seed % len(levels)] = math.nan
        with pytest.raises(ValueError, match="can't rank scores that are NaN"):
            self.area(scores, labels)
