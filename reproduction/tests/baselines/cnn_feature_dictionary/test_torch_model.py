import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.teacher.sources import DistillationSource
from reproduction.baselines.cnn_feature_dictionary import torch_model
from reproduction.baselines.cnn_feature_dictionary.dictionary import FeatureDictionary
from reproduction.baselines.cnn_feature_dictionary.torch_model import CNNFeatureDictionaryModel

INPUT_SIZE = 32


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Several parts, of which the last is shorter, although the images are small."""
    monkeypatch.setattr(torch_model, "PATCHES_AT_ONCE", 5)


@pytest.fixture
def make_model(resnet18_checkpoint):
    def make(**arguments):
        source = DistillationSource("resnet18", resnet18_checkpoint, "layer2", INPUT_SIZE)
        arguments = {"patch_size": 17, "output_stride": 4, "patches_per_image": 12, **arguments}
        return CNNFeatureDictionaryModel(source, FeatureDictionary(n_entries=3, n_nearest=2), **arguments).eval()

    return make


@pytest.fixture
def fitted(make_model):
    def make(**arguments):
        model = make_model(**arguments)
        model.fit(model.describe(torch.rand(2, 3, 40, 48)))
        return model

    return make


@pytest.mark.parametrize("patch_size", [16, 17])
def test_map_has_the_score_of_each_patch(fitted, resnet18_checkpoint, patch_size):
    model = fitted(patch_size=patch_size)
    images = torch.rand(2, 3, 29, 34)
    predictions = model(images)
    assert predictions.anomaly_map.shape == (2, 1, 29, 34)
    torch.testing.assert_close(predictions.pred_score, predictions.anomaly_map.amax(dim=(1, 2, 3)))

    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    reference.load_state_dict(load_file(resnet18_checkpoint))
    reference.double()
    dictionary = model.dictionary.double()
    # An even patch has one pixel more below and to the right of its centre.
    before = (patch_size - 1) // 2
    padding = (before, patch_size // 2)
    padded = np.pad(images.double().numpy(), ((0, 0), (0, 0), padding, padding), mode="reflect")
    for row in range(0, 29, 4):
        for column in range(0, 34, 4):
            patch = torch.from_numpy(padded[..., row : row + patch_size, column : column + patch_size])
            with torch.no_grad():
                features = reference(transforms.resize(patch, [INPUT_SIZE, INPUT_SIZE], antialias=True))[1]
                expected = dictionary(features.mean(dim=(2, 3)))
            torch.testing.assert_close(
                predictions.anomaly_map[:, 0, row, column].double(), expected, rtol=1e-3, atol=1e-6
            )


def test_described_patches_are_of_all_images(make_model):
    model = make_model()
    flat = torch.linspace(-2, 2, 3).view(3, 1, 1, 1).expand(3, 3, 24, 20)
    descriptors = model.describe(flat)
    assert descriptors.shape == (3 * 12, 128)
    # The patches of a flat image are all alike.
    _, counts = descriptors.mul(1e4).round().unique(dim=0, return_counts=True)
    assert counts.tolist() == [12, 12, 12]


def test_described_patches_are_drawn_anew(make_model):
    model = make_model()
    images = torch.rand(1, 3, 40, 40)
    assert not torch.equal(model.describe(images), model.describe(images))


def test_exported_program_gives_the_same_map(fitted):
    model = fitted()
    images = torch.rand(3, 3, 24, 20)
    program = torch.export.export(model, (torch.rand(2, 3, 24, 20),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(images).anomaly_map, model(images).anomaly_map, rtol=1e-3, atol=1e-6)


def test_model_that_is_not_fitted_is_one_clear_error(make_model):
    with pytest.raises(RuntimeError, match="not fitted"):
        make_model()(torch.rand(1, 3, 40, 40))


@pytest.mark.parametrize("arguments", [{"output_stride": 3}, {"patch_size": 0}, {"patches_per_image": 0}])
def test_argument_out_of_range_is_one_clear_error(make_model, arguments):
    with pytest.raises(ValueError, match=r"output stride|must be at least 1"):
        make_model(**arguments)
