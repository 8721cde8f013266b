import pytest
import torch

from anomalib_students.baselines.methods import METHODS
from anomalib_students.baselines.torch_model import DescriptorBaselineModel
from anomalib_students.dense import reflect_pad

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


@pytest.mark.parametrize("standardise", [True, False])
def test_descriptors_are_standardised_if_so_wanted(standardise):
    model = DescriptorBaselineModel("k_means", descriptor_dim=16, standardise=standardise)
    descriptors = 3 * torch.randn(200, 16) + 2
    descriptors[:, 5] = 7
    model.fit(descriptors)
    given = descriptors.double()
    std = given.std(dim=0, correction=0).where(torch.arange(16) != 5, 1.0)
    expected = (given.mean(dim=0), std) if standardise else (torch.zeros(16), torch.ones(16))
    torch.testing.assert_close((model.descriptor_mean, model.descriptor_std), tuple(part.float() for part in expected))
    assert model.distribution.centres.isfinite().all()


def test_model_that_is_not_fitted_is_one_clear_error():
    with pytest.raises(RuntimeError, match="not fitted"):
        DescriptorBaselineModel("k_means")(torch.rand(1, 3, 40, 40))


@pytest.mark.parametrize("arguments", [{"output_stride": 3}, {"max_tile": 4}, {"patch_size": 20}])
def test_argument_out_of_range_is_one_clear_error(arguments):
    with pytest.raises(ValueError, match=r"output stride|max_tile|patch size"):
        DescriptorBaselineModel("k_means", **arguments)
