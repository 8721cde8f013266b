"""What holds for all sizes and places, on examples that hypothesis draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomalib_students.model.anomaly_map import prediction
from anomalib_students.networks.dense import OUTPUT_STRIDES, cut_tiles, dense_descriptors

from ..networks import test_dense

SEEDS = st.integers(0, 2**32 - 1)
NETWORKS = st.sampled_from(test_dense.NETWORKS)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normally distributed numbers."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.usefixtures("narrow_networks")
@given(NETWORKS, st.integers(1, 60), st.integers(1, 60), st.sampled_from(OUTPUT_STRIDES), st.integers(8, 40), SEEDS)
def test_tiles_are_the_whole(network, height, width, stride, max_tile, seed):
    torch.manual_seed(seed)
    network = test_dense.make_network(*network)
    images = draw(seed, 1, 3, height, width)
    whole = dense_descriptors(network, images, stride)
    rows = [
        torch.cat([dense_descriptors(network, tile, stride, padded=True) for tile in row], dim=-1)
        for row in cut_tiles(images, network.patch_size, stride, max_tile)
    ]
    joined = torch.cat(rows, dim=-2)
    torch.testing.assert_close(joined, whole, rtol=1e-9, atol=1e-9)


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

    @given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(1, 12), st.sampled_from([0, 0.01, 0.3]), SEEDS)
    def test_a_broken_score_anywhere(self, value, side, fraction, seed):
        images, scores = draw(seed, 2, 3, side, side), draw(seed, 2, 1, side, side)
        scores.view(-1)[seed % scores.numel()] = value
        with pytest.raises(ValueError, match="no score for the images"):
            prediction(scores, images, score_fraction=fraction)

    @given(BROKEN, st.integers(1, 12), st.sampled_from([0, 0.01, 0.3]), SEEDS)
    def test_in_exported_models_the_score_is_infinite(self, value, side, fraction, seed):
        images, scores = draw(seed, 2, 3, side, side), draw(seed, 2, 1, side, side)
        images[1].view(-1)[seed % images[1].numel()] = value
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: True)
            predicted = prediction(scores, images, score_fraction=fraction)
        assert predicted.pred_score[0].isfinite()
        assert predicted.pred_score[1] == math.inf
        assert not predicted.anomaly_map.isnan().any()
