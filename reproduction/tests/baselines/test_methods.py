"""Each method against scikit-learn or the formula, in float64."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from reproduction.baselines import distances
from reproduction.baselines.gradient_descent import HIDDEN_WIDTHS
from reproduction.baselines.methods import METHODS, create_distribution

DIM = 12
SHORT = {"epochs": 2, "batch_size": 32}
SETTINGS = {"autoencoder": SHORT, "variational_autoencoder": SHORT}


@pytest.fixture
def descriptors():
    """Descriptors with a mean, most of whose variance lies in four directions."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(4, DIM, generator=generator)
    noise = 0.2 * torch.randn(300, DIM, generator=generator)
    return torch.randn(300, 4, generator=generator) @ directions + noise + 5


@pytest.fixture
def others():
    """Descriptors to score: the first half near those of ``descriptors``, the others far."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.tensor([1.0] * 20 + [5.0] * 20)[:, None]
    return torch.randn(40, DIM, generator=generator) * scale + 5


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks of references, of which the last is shorter, although the data are small."""
    for module in ("distances", "one_class_svm"):
        monkeypatch.setattr(f"reproduction.baselines.{module}.REFERENCES_AT_ONCE", 37)


def fitted(method, descriptors, **settings):
    distribution = create_distribution(method, DIM, {**SETTINGS.get(method, {}), **settings})
    distribution.fit(descriptors.clone())
    return distribution


def scores(distribution, descriptors):
    with torch.no_grad():
        return distribution(descriptors).numpy()


def components(descriptors, others):
    analysis = PCA(0.95).fit(descriptors.double().numpy())
    return analysis.transform(descriptors.double().numpy()), analysis.transform(others.double().numpy())


def test_nearest_neighbour_is_that_of_scikit_learn(descriptors, others):
    stored, asked = components(descriptors, others)
    expected = NearestNeighbors(n_neighbors=1).fit(stored).kneighbors(asked)[0][:, 0]
    distribution = fitted("nearest_neighbour", descriptors, dictionary_size=None)
    assert distribution.dictionary.shape == stored.shape
    np.testing.assert_allclose(scores(distribution, others), expected, rtol=1e-4)


def test_dictionary_is_of_distinct_descriptors(descriptors):
    distribution = fitted("nearest_neighbour", descriptors, dictionary_size=50)
    assert len(distribution.dictionary.unique(dim=0)) == 50
    # Those that are in the dictionary are at no distance, but for rounding.
    assert (scores(distribution, descriptors) < 0.01).sum() == 50


def test_k_means_is_that_of_scikit_learn(descriptors, others):
    distribution = fitted("k_means", descriptors)
    assert len(distribution.centres) == 10
    stored, asked = components(descriptors, others)
    centres = distribution.centres.double().numpy()
    # Components have no sign: bring those of the reference to ours.
    signs = np.sign((distribution.reduction(descriptors).numpy() * stored).sum(axis=0))
    stored, asked = stored * signs, asked * signs
    again = KMeans(10, init=centres, n_init=1).fit(stored)
    # Lloyd's iterations, started from our centres, stay there.
    np.testing.assert_allclose(again.cluster_centers_, centres, atol=0.02)
    expected = np.linalg.norm(asked[:, None] - centres, axis=2).min(axis=1)
    np.testing.assert_allclose(scores(distribution, others), expected, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"nu": 0.1}, {"gamma": 0.5}])
def test_one_class_svm_is_that_of_scikit_learn(settings, descriptors, others):
    stored, asked = components(descriptors, others)
    expected = -OneClassSVM(**{"nu": 0.5, "gamma": "scale", **settings}).fit(stored).decision_function(asked)
    assert np.ptp(expected) > 0.5
    # scikit-learn stops at a tolerance of 1e-3 in the gradients, and starts from components rounded differently here.
    np.testing.assert_allclose(scores(fitted("one_class_svm", descriptors, **settings), others), expected, atol=0.01)


def apply(network, values):
    """Linear layers, and the leaky rectified linear unit with slope 0.005 between them."""
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    for index, layer in enumerate(layers):
        values = values @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if index < len(layers) - 1:
            values = np.where(values > 0, values, 0.005 * values)
    return values


def test_autoencoder_scores_the_reconstruction_error(descriptors, others):
    distribution = fitted("autoencoder", descriptors)
    inputs = others.double().numpy()
    outputs = apply(distribution.decoder, apply(distribution.encoder, inputs))
    np.testing.assert_allclose(scores(distribution, others), ((outputs - inputs) ** 2).sum(axis=1), rtol=1e-4)


def test_variational_autoencoder_scores_the_reconstruction_probability(descriptors, others):
    distribution = fitted("variational_autoencoder", descriptors)
    inputs = others.double().numpy()
    code_mean, code_log_variance = np.split(apply(distribution.encoder, inputs), 2, axis=1)
    passes = []
    for noise in distribution.noise.double().numpy():
        codes = code_mean + np.exp(np.clip(code_log_variance, -10, 10) / 2) * noise
        mean, log_variance = np.split(apply(distribution.decoder, codes), 2, axis=1)
        variance = np.exp(np.clip(log_variance, -10, 10))
        density = np.exp(-((inputs - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        passes.append(-np.log(density).sum(axis=1))
    assert len(passes) == 5
    # Only what does not underflow in the density.
    near = np.isfinite(passes).all(axis=0)
    assert near.sum() >= 20
    np.testing.assert_allclose(scores(distribution, others)[near], np.mean(passes, axis=0)[near], rtol=1e-4)


def test_loss_of_the_variational_autoencoder_is_the_bound_of_its_densities(descriptors):
    distribution = fitted("variational_autoencoder", descriptors)
    inputs = descriptors[:50]
    torch.manual_seed(3)
    loss = distribution.loss(inputs)
    torch.manual_seed(3)
    noise = torch.randn(50, HIDDEN_WIDTHS[-1])
    mean, log_variance = distribution.encoder(inputs).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    decoded, decoded_log_variance = distribution.decoder(mean + posterior.stddev * noise).chunk(2, dim=1)
    likelihood = torch.distributions.Normal(decoded, (decoded_log_variance / 2).exp()).log_prob(inputs).sum(dim=1)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(dim=1)
    torch.testing.assert_close(loss, (divergence - likelihood).mean())


@pytest.mark.parametrize("method", ["autoencoder", "variational_autoencoder"])
def test_autoencoders_learn(method, descriptors, others):
    descriptors, others = descriptors - 5, others - 5
    # They learn where gradients are turned off, as in a validation.
    with torch.no_grad():
        distribution = fitted(method, descriptors, epochs=30, lr=1e-2)
    known = scores(distribution, descriptors)
    short = scores(fitted(method, descriptors, epochs=1), descriptors)
    assert known.mean() < 0.7 * short.mean()
    assert np.median(scores(distribution, others)[20:]) > np.quantile(known, 0.99)


@pytest.mark.parametrize("method", METHODS)
def test_weights_restore_the_scores(method, descriptors, others):
    distribution = fitted(method, descriptors)
    restored = create_distribution(method, DIM)
    restored.load_state_dict(distribution.state_dict())
    np.testing.assert_array_equal(scores(restored, others), scores(distribution, others))


@pytest.mark.parametrize("method", METHODS)
def test_fit_leaves_the_descriptors_alone_and_follows_the_seed(method, descriptors, others):
    before = descriptors.clone()
    results = []
    for _ in range(2):
        torch.manual_seed(4)
        distribution = create_distribution(method, DIM, SETTINGS.get(method))
        distribution.fit(descriptors)
        results.append(scores(distribution, others))
    np.testing.assert_array_equal(*results)
    torch.testing.assert_close(descriptors, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("method", "settings", "pixel", "patch"),
    [
        ("nearest_neighbour", {}, {"dictionary_size": 5000}, {"dictionary_size": None}),
        ("nearest_neighbour", {"dictionary_size": 9}, {"dictionary_size": 9}, {"dictionary_size": 9}),
        ("k_means", {}, {"n_centres": 10}, {"n_centres": 10}),
        ("autoencoder", {}, {"lr": 1e-4, "batch_size": 512}, {"lr": 1e-2, "batch_size": 64}),
        ("variational_autoencoder", {"lr": 1e-3}, {"lr": 1e-3, "batch_size": 512}, {"lr": 1e-3, "batch_size": 64}),
        ("variational_autoencoder", {}, {"max_gradient_norm": None}, {"max_gradient_norm": 10.0}),
    ],
)
def test_settings_are_those_of_the_papers_experiment_unless_given(method, settings, pixel, patch):
    for mode, expected in (("pixel", pixel), ("patch", patch)):
        distribution = create_distribution(method, DIM, settings, mode)
        assert {name: getattr(distribution, name) for name in expected} == expected


def test_fewer_descriptors_than_centres_are_one_clear_error(descriptors):
    with pytest.raises(ValueError, match="only 9 descriptors for 10 centres"):
        fitted("k_means", descriptors[:9])


def test_distances_of_equal_vectors_are_not_negative():
    vectors = 100 * torch.randn(50, 8)
    assert (distances.squared_distances(vectors, vectors) >= 0).all()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("svm", {}, "method must be one of"),
        ("k_means", {"nu": 0.1}, "no setting nu: its settings are n_centres"),
        ("autoencoder", {"n_passes": 2}, "its settings are epochs, lr"),
        ("k_means", {"n_centres": 0}, "n_centres"),
        ("nearest_neighbour", {"dictionary_size": 0}, "dictionary_size"),
        ("nearest_neighbour", {"kept_variance": 1.5}, "kept_variance"),
        ("one_class_svm", {"nu": 0}, "nu must"),
        ("one_class_svm", {"gamma": "auto"}, "gamma must"),
        ("autoencoder", {"lr": 0}, "lr positive"),
        ("variational_autoencoder", {"max_gradient_norm": 0}, "max_gradient_norm must"),
        ("variational_autoencoder", {"n_passes": 0}, "n_passes"),
    ],
)
def test_wrong_setting_is_one_clear_error(method, settings, message):
    with pytest.raises(ValueError, match=message):
        create_distribution(method, DIM, settings)


def test_gradients_are_clipped_to_the_norm(descriptors):
    # Descriptors that differ in scale, so that the clipping shortens the gradients of some steps more than of others.
    descriptors = descriptors * torch.linspace(0.1, 10, len(descriptors))[:, None]
    torch.manual_seed(0)
    clipped = fitted("autoencoder", descriptors, max_gradient_norm=0.1, lr=1e-2)
    torch.manual_seed(0)
    expected = create_distribution("autoencoder", DIM, SHORT)
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-2, weight_decay=1e-5)
    for _ in range(SHORT["epochs"]):
        for indices in torch.randperm(len(descriptors)).split(SHORT["batch_size"]):
            optimizer.zero_grad()
            expected.loss(descriptors[indices]).backward()
            norm = torch.cat([parameter.grad.flatten() for parameter in expected.parameters()]).norm()
            for parameter in expected.parameters():
                parameter.grad *= min(1.0, 0.1 / norm)
            optimizer.step()
    torch.testing.assert_close(clipped.state_dict(), expected.state_dict(), rtol=1e-3, atol=1e-4)


def test_diverged_training_is_one_clear_error(descriptors):
    with pytest.raises(ValueError, match="diverged"):
        fitted("autoencoder", descriptors, lr=1e30)
