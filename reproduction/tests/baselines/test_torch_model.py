from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.svm import OneClassSVM
from torch.nn import functional

from anomalib_students.networks.dense import reflect_pad
from reproduction.baselines.methods import METHODS
from reproduction.baselines.torch_model import DescriptorBaselineModel

pytestmark = pytest.mark.usefixtures("narrow_networks")

QUICK = {
    "nearest_neighbour": {"dictionary_size": 100},
    "autoencoder": {"epochs": 1},
    "variational_autoencoder": {"epochs": 1},
}


def fitted(method, **arguments):
    model = DescriptorBaselineModel(method, descriptor_dim=16, settings=QUICK.get(method), **arguments).eval()
    model.fit(model.describe(torch.rand(2, 3, 40, 48)))
    return model


def score(model, descriptors):
    return model.distribution((descriptors - model.descriptor_mean) / model.descriptor_std)


@pytest.mark.parametrize("method", METHODS)
def test_map_has_the_score_of_each_patch(method):
    model = fitted(method, output_stride=4)
    images = torch.rand(2, 3, 41, 50)
    predictions = model(images)
    assert predictions.anomaly_map.shape == (2, 1, 41, 50)
    torch.testing.assert_close(predictions.pred_score, predictions.anomaly_map.amax(dim=(1, 2, 3)))

    padded = reflect_pad(images, 16, 16, 16, 16)
    for row, column in ((0, 0), (20, 12), (40, 48)):
        patch = padded[..., row : row + 33, column : column + 33]
        with torch.no_grad():
            expected = score(model, model.teacher(patch).flatten(1))
        torch.testing.assert_close(predictions.anomaly_map[:, 0, row, column], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("output_stride", [1, 8])
def test_tiles_give_the_map_of_the_whole_image(output_stride):
    whole = fitted("k_means", output_stride=output_stride)
    tiled = DescriptorBaselineModel("k_means", descriptor_dim=16, output_stride=output_stride, max_tile=16)
    tiled.load_state_dict(whole.state_dict())
    images = torch.rand(1, 3, 37, 52)
    torch.testing.assert_close(tiled(images).anomaly_map, whole(images).anomaly_map, rtol=1e-4, atol=1e-4)
    described = whole.describe(images)
    torch.testing.assert_close(tiled.describe(images).sum(dim=0), described.sum(dim=0), rtol=1e-4, atol=1e-4)
    assert described.shape == (-(-37 // output_stride) * -(-52 // output_stride), 16)


@pytest.mark.parametrize("method", METHODS)
def test_exported_program_gives_the_same_map(method):
    model = fitted(method)
    images = torch.rand(3, 3, 48, 40)
    program = torch.export.export(model, (torch.rand(2, 3, 48, 40),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(images).anomaly_map, model(images).anomaly_map, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_in_full_precision_where_descriptors_are_not(method):
    model = fitted(method)
    images = torch.rand(1, 3, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        descriptors = model.describe(images)
        anomaly_map = model(images).anomaly_map
    with torch.no_grad():
        expected = score(model, descriptors).reshape(10, 10)
    torch.testing.assert_close(anomaly_map[0, 0, ::4, ::4], expected, rtol=1e-5, atol=1e-5)


def zoomed_descriptors(model, images):
    """Descriptors of images zoomed to 33 x 33 by torch, in float64, of shape ``(n, d)``."""
    zoomed = functional.interpolate(images.double(), size=(33, 33), mode="bilinear", antialias=True)
    with torch.no_grad():
        return deepcopy(model.teacher).double()(zoomed)[:, :, 0, 0]


def fitted_to_whole_images(method, **arguments):
    """Model in the mode ``patch``, and the 40 images that it is fitted to."""
    settings = {"epochs": 1} if "autoencoder" in method else None
    model = DescriptorBaselineModel(method, descriptor_dim=16, settings=settings, mode="patch", **arguments).eval()
    images = torch.rand(40, 3, 20, 24)
    model.fit(model.describe(images))
    return model, images


def reference_scores(model, method, known, asked):
    """Score descriptors by what scikit-learn or the formula makes of those that the model was fitted to."""
    mean, std = known.mean(dim=0), known.std(dim=0, correction=0)
    known, asked = (known - mean) / std, (asked - mean) / std
    if "autoencoder" in method:
        return autoencoder_scores(deepcopy(model.distribution).double(), asked).detach().numpy()
    analysis = PCA(0.95).fit(known)
    known, asked = analysis.transform(known), analysis.transform(asked)
    if method == "nearest_neighbour":
        return np.sqrt(((asked[:, None] - known) ** 2).sum(axis=2)).min(axis=1)
    if method == "one_class_svm":
        return -OneClassSVM(kernel="rbf").fit(known).decision_function(asked)
    # Lloyd's iterations, started from our centres, stay there. Components have no sign, but descriptors have.
    reduction = model.distribution.reduction
    centres = analysis.transform((model.distribution.centres @ reduction.directions.T + reduction.mean).double())
    return KMeans(10, init=centres, n_init=1).fit(known).transform(asked).min(axis=1)


def autoencoder_scores(distribution, asked):
    """Squared l2 error; or minus the logarithm of the densities given five codes, averaged."""
    if not hasattr(distribution, "noise"):
        return (distribution.decoder(distribution.encoder(asked)) - asked).square().sum(dim=1)
    mean, log_variance = distribution.encoder(asked).chunk(2, dim=1)
    codes = mean + (log_variance / 2).exp() * distribution.noise
    decoded, decoded_log_variance = distribution.decoder(codes).chunk(2, dim=2)
    density = torch.distributions.Normal(decoded, (decoded_log_variance / 2).exp())
    return -density.log_prob(asked).sum(dim=2).mean(dim=0)


def test_image_is_described_as_the_patch_that_it_is_zoomed_to():
    model = DescriptorBaselineModel("k_means", descriptor_dim=16, mode="patch")
    for images in (torch.rand(3, 3, 28, 20), torch.rand(2, 3, 33, 33), torch.rand(2, 3, 70, 50)):
        expected = zoomed_descriptors(model, images)
        torch.testing.assert_close(model.describe(images).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_image_has_the_score_of_its_descriptor(method):
    model, known = fitted_to_whole_images(method)
    images = 2 * torch.rand(6, 3, 40, 28)
    predictions = model(images)
    assert predictions.anomaly_map is None
    expected = reference_scores(model, method, *(zoomed_descriptors(model, each) for each in (known, images)))
    assert np.ptp(expected) > 0
    # The support vectors are sought up to a tolerance of 1e-3 in the gradients.
    atol = 0.01 if method == "one_class_svm" else 1e-4
    np.testing.assert_allclose(predictions.pred_score.numpy(), expected, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_exported_program_gives_images_the_same_score(method):
    model, images = fitted_to_whole_images(method)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(images).pred_score, model(images).pred_score, rtol=1e-3, atol=1e-3)


def test_a_batch_of_images_in_parts_has_their_scores():
    model, images = fitted_to_whole_images("k_means")
    parts = DescriptorBaselineModel("k_means", descriptor_dim=16, mode="patch", max_tile=60).eval()
    parts.load_state_dict(model.state_dict())
    assert len(list(parts.describer.patches(parts.teacher, images))) == 6
    torch.testing.assert_close(parts.describe(images), model.describe(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts(images).pred_score, model(images).pred_score, rtol=1e-4, atol=1e-4)


def test_all_descriptors_are_in_the_dictionary_of_whole_images():
    model, _ = fitted_to_whole_images("nearest_neighbour")
    assert len(model.distribution.dictionary) == 40


@pytest.mark.parametrize("standardise", [True, False])
def test_descriptors_are_standardised_if_so_wanted(standardise):
    model = DescriptorBaselineModel("k_means", descriptor_dim=16, standardise=standardise)
    descriptors = 3 * torch.randn(200, 16) + 2
    descriptors[:, 5] = 7
    model.fit(descriptors)
    given = descriptors.double()
    # What does not vary is divided by a hundredth of the typical size.
    std = given.std(dim=0, correction=0).where(torch.arange(16) != 5, 0.01 * given.square().mean().sqrt())
    expected = (given.mean(dim=0), std) if standardise else (torch.zeros(16), torch.ones(16))
    torch.testing.assert_close((model.descriptor_mean, model.descriptor_std), tuple(part.float() for part in expected))
    assert model.distribution.centres.isfinite().all()


def test_model_that_is_not_fitted_is_one_clear_error():
    with pytest.raises(RuntimeError, match="not fitted"):
        DescriptorBaselineModel("k_means")(torch.rand(1, 3, 40, 40))


@pytest.mark.parametrize("arguments", [{"output_stride": 3}, {"max_tile": 4}, {"patch_size": 20}, {"mode": "image"}])
def test_argument_out_of_range_is_one_clear_error(arguments):
    with pytest.raises(ValueError, match=r"output stride|max_tile|patch size|mode must be one of"):
        DescriptorBaselineModel("k_means", **arguments)
