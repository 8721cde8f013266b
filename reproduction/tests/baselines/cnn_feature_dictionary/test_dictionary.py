"""The dictionary against scikit-learn, in float64."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances
from sklearn.preprocessing import normalize

from reproduction.baselines.cnn_feature_dictionary.dictionary import FeatureDictionary

N_ENTRIES = 4


@pytest.fixture
def features():
    """Features in four clusters that every start of K-Means finds, each of a length of its own."""
    means = torch.eye(N_ENTRIES, 12).repeat_interleave(50, dim=0)
    return (means + 0.2 * torch.rand(200, 12)) * torch.linspace(0.5, 3, 200)[:, None]


@pytest.mark.parametrize("n_nearest", [1, 3])
def test_score_is_the_mean_distance_to_the_nearest_patches_at_the_centres(features, n_nearest):
    others = torch.rand(30, 12)
    dictionary = FeatureDictionary(N_ENTRIES, n_nearest)
    dictionary.fit(features)

    known, asked = (normalize(vectors.double().numpy(), norm="l1") for vectors in (features, others))
    analysis = PCA(0.95).fit(known)
    components = analysis.transform(known)
    centres = KMeans(N_ENTRIES, n_init=10, random_state=0).fit(components).cluster_centers_
    entries = components[pairwise_distances(centres, components).argmin(axis=1)]
    expected = np.sort(pairwise_distances(analysis.transform(asked), entries), axis=1)[:, :n_nearest].mean(axis=1)
    np.testing.assert_allclose(dictionary(others).numpy(), expected, rtol=1e-4)


def test_score_does_not_depend_on_the_length_of_a_feature(features):
    dictionary = FeatureDictionary(N_ENTRIES)
    dictionary.fit(features)
    # The distance of an entry from itself is the root of what rounding leaves of the squared distance.
    torch.testing.assert_close(dictionary(7 * features), dictionary(features), rtol=1e-3, atol=1e-3)


def test_entries_have_a_score_of_zero(features):
    dictionary = FeatureDictionary(N_ENTRIES)
    dictionary.fit(features)
    assert (dictionary(features) < 1e-3).sum() == N_ENTRIES


def test_fewer_features_than_entries_are_one_clear_error():
    with pytest.raises(ValueError, match="only 3 patches"):
        FeatureDictionary(N_ENTRIES).fit(torch.rand(3, 12))


@pytest.mark.parametrize("n_nearest", [0, 11])
def test_argument_out_of_range_is_one_clear_error(n_nearest):
    with pytest.raises(ValueError, match="n_nearest must lie"):
        FeatureDictionary(n_nearest=n_nearest)
