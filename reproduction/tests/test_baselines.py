"""The baselines against scikit-learn, torch.distributions, the papers' tables and patches cut out one by one."""

import numpy as np
import pytest
import torch
from sklearn import cluster, svm
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances
from sklearn.preprocessing import normalize
from torch import nn
from torch.distributions import Normal, kl_divergence
from torchvision.transforms.v2.functional import resize, rgb_to_grayscale

from reproduction.baselines import shallow
from reproduction.baselines.autoencoders import PASSES, Autoencoder, VariationalAutoencoder
from reproduction.baselines.descriptor_methods import METHODS, DescriptorMethod
from reproduction.baselines.feature_dictionary import FeatureDictionary
from reproduction.baselines.ssim_autoencoder import LATENT_DIM, SSIMAutoencoder


@pytest.fixture
def descriptors():
    """Descriptors in ten clusters that every start of K-Means finds."""
    return torch.eye(10, 12).repeat_interleave(40, dim=0) + 0.05 * torch.randn(400, 12)


def nearest(components, references):
    return pairwise_distances(components, references).min(axis=1)


@pytest.mark.parametrize("name", ["nearest_neighbour", "k_means", "one_class_svm"])
def test_shallow_models_score_as_scikit_learn(name, descriptors, monkeypatch):
    monkeypatch.setattr(shallow, "SUPPORT_VECTORS_AT_ONCE", 64)
    others = torch.randn(30, 12)
    model = METHODS[name]()
    model.fit(descriptors)
    analysis = PCA(0.95).fit(descriptors.double().numpy())
    known, asked = (analysis.transform(vectors.double().numpy()) for vectors in (descriptors, others))
    expected = {
        "nearest_neighbour": lambda: nearest(asked, known),
        "k_means": lambda: nearest(asked, cluster.KMeans(10, n_init=3, random_state=0).fit(known).cluster_centers_),
        "one_class_svm": lambda: -svm.OneClassSVM().fit(known).decision_function(asked),
    }[name]()
    # The machine stops at a tolerance.
    np.testing.assert_allclose(model(others).numpy(), expected, rtol=1e-4, atol=2e-3)


def test_the_dictionary_of_1_nn_is_a_random_choice_of_the_descriptors(descriptors):
    model = shallow.NearestNeighbour(dictionary_size=50)
    model.fit(descriptors)
    assert len(model.dictionary) == 50
    assert (model(descriptors) < 1e-3).sum() == 50


def test_the_autoencoder_learns_and_scores_by_its_squared_error(descriptors):
    model = Autoencoder(12, epochs=40, lr=1e-2, batch_size=64)
    before = model.loss(descriptors)
    model.fit(descriptors)
    assert model.loss(descriptors) < 0.5 * before
    error = (model.network(descriptors) - descriptors).norm(dim=1) ** 2
    torch.testing.assert_close(model(descriptors), error)


def test_the_variational_autoencoder_scores_by_its_reconstruction_probability(descriptors):
    """And its loss is the negative evidence lower bound."""
    model = VariationalAutoencoder(12)
    codes = Normal(*split(model.encoder(descriptors)))
    passes = [codes.mean + codes.stddev * noise for noise in model.noise]
    expected = sum(-log_probability(model, code, descriptors) for code in passes) / PASSES
    torch.testing.assert_close(model(descriptors), expected)

    torch.manual_seed(1)
    loss = model.loss(descriptors)
    torch.manual_seed(1)
    divergence = kl_divergence(codes, Normal(0, 1)).sum(dim=1)
    expected = (divergence - log_probability(model, codes.rsample(), descriptors)).mean()
    torch.testing.assert_close(loss, expected)


def split(outputs):
    mean, log_variance = outputs.chunk(2, dim=-1)
    return mean, (log_variance / 2).exp()


def log_probability(model, codes, descriptors):
    return Normal(*split(model.decoder(codes))).log_prob(descriptors).sum(dim=-1)


def test_a_training_that_diverges_is_one_clear_error(descriptors):
    with pytest.raises(ValueError, match="Autoencoder diverged: use a smaller lr"):
        Autoencoder(12, epochs=2, lr=1e30).fit(descriptors)


@pytest.mark.parametrize("name", ["nearest_neighbour", "one_class_svm"])
def test_methods_get_standardised_descriptors(name, descriptors):
    scales = torch.linspace(1, 30, 12)
    scores = []
    for factor, offset in ((1, 0), (scales, 7)):
        method = DescriptorMethod(name)
        torch.manual_seed(0)
        method.fit(descriptors * factor + offset)
        scores.append(method(torch.eye(12) * factor + offset))
    torch.testing.assert_close(*scores, rtol=1e-2, atol=1e-3)


def test_one_class_methods_have_the_settings_of_appendix_b():
    assert DescriptorMethod("nearest_neighbour", one_class=True).model.dictionary_size is None
    autoencoder = DescriptorMethod("autoencoder", one_class=True, epochs=3).model
    assert (autoencoder.lr, autoencoder.batch_size, autoencoder.epochs) == (1e-2, 64, 3)


# Table 1 of the VISAPP paper: output size, channels, kernel and stride of the layers of the encoder.
SSIM_TABLE = [
    *[(64, 32, 4, 2), (32, 32, 4, 2), (32, 32, 3, 1), (16, 64, 4, 2), (16, 64, 3, 1), (8, 128, 4, 2)],
    *[(8, 64, 3, 1), (8, 32, 3, 1), (1, LATENT_DIM, 8, 1)],
]


def layers_of(network, values):
    rows = []
    for layer in network:
        values = layer(values)
        if not isinstance(layer, nn.LeakyReLU):
            rows.append((values.shape[-1], values.shape[1], layer.kernel_size[0], layer.stride[0]))
    return rows, values


def test_layers_of_the_ssim_autoencoder_are_those_of_the_table():
    model = SSIMAutoencoder(128)
    encoded, code = layers_of(model.encoder, torch.rand(1, 1, 128, 128))
    assert encoded == SSIM_TABLE
    decoded, _ = layers_of(model.decoder, code)
    # Backwards, each layer gives what its counterpart was given.
    inputs = [(128, 1), *(row[:2] for row in SSIM_TABLE[:-1])]
    assert decoded == [(*size, *row[2:]) for size, row in zip(inputs[::-1], SSIM_TABLE[::-1], strict=True)]
    larger, _ = layers_of(SSIMAutoencoder(256).encoder, torch.rand(1, 1, 256, 256))
    assert larger == [(128, 32, 4, 2), *SSIM_TABLE]


def test_larger_images_have_the_mean_of_their_patches():
    model, images = SSIMAutoencoder(128), torch.rand(1, 3, 165, 140)
    anomaly_map = model(images)[0, 0]
    with torch.no_grad():
        patches = {
            (top, left): model.dissimilarity(rgb_to_grayscale(images)[..., top : top + 128, left : left + 128])[0, 0]
            # The last patches end with the image.
            for top in (0, 30, 37)
            for left in (0, 12)
        }
    for row, column in ((0, 0), (35, 139), (129, 3), (164, 139)):
        values = [
            patch[row - top, column - left]
            for (top, left), patch in patches.items()
            if 0 <= row - top < 128 and 0 <= column - left < 128
        ]
        torch.testing.assert_close(anomaly_map[row, column], torch.stack(values).mean())


def test_the_ssim_autoencoder_is_trained_on_a_patch_of_each_image(monkeypatch):
    model, seen = SSIMAutoencoder(128), []
    dissimilarity = model.dissimilarity
    monkeypatch.setattr(model, "dissimilarity", lambda grey: seen.append(grey.shape) or dissimilarity(grey))
    before = [parameter.clone() for parameter in model.parameters()]
    model.fit(lambda: [torch.rand(2, 3, 160, 150)], epochs=2)
    assert seen == [(2, 1, 128, 128)] * 2
    assert all((parameter != old).any() for parameter, old in zip(model.parameters(), before, strict=True))


class Features(nn.Module):
    """Features that depend on every pixel of a patch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3 * 8 * 8, 16))

    def forward(self, patches):
        return patches.flatten(1) @ self.weight


@pytest.mark.parametrize("patch_size", [16, 17])
def test_the_dictionary_scores_each_patch_by_itself(patch_size):
    model = FeatureDictionary(Features(), patch_size, input_size=8, patches_per_image=30)
    known = model.describe(torch.rand(2, 3, 40, 48))
    assert known.shape == (60, 16)
    model.fit(known)
    # Entries are described patches.
    assert (model.dictionary(known) < 1e-4).sum() >= 10

    images = torch.rand(2, 3, 29, 34)
    maps = model(images)
    assert maps.shape == (2, 1, 29, 34)
    # An even patch has one pixel more below and to the right of its centre.
    before = (patch_size - 1) // 2
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), *[(before, patch_size // 2)] * 2), mode="reflect")
    for row, column in np.ndindex(8, 9):
        place = ..., slice(4 * row, 4 * row + patch_size), slice(4 * column, 4 * column + patch_size)
        patch = resize(torch.from_numpy(padded[place]), [8, 8], antialias=True)
        features = normalize(model.network(patch).numpy(), norm="l1")
        expected = model.dictionary(torch.from_numpy(features))
        torch.testing.assert_close(maps[:, 0, 4 * row, 4 * column], expected, rtol=1e-3, atol=1e-5)
