import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from anomalib_students.teacher import feature_source
from anomalib_students.teacher.feature_source import FeatureSource, feature_blocks


@pytest.fixture
def lite_checkpoint(tmp_path):
    """Random weights of a whole EfficientNet."""
    path = tmp_path / "lite.safetensors"
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "channels", "mean", "std"),
    [
        ("resnet18", [128, 256], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_lite0", [40, 112], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_features_are_those_of_the_model_on_images_normalised_for_it(
    name, channels, mean, std, resnet18_checkpoint, lite_checkpoint
):
    path = resnet18_checkpoint if name == "resnet18" else lite_checkpoint
    source = FeatureSource(name, path)
    assert source.channels == channels
    images = torch.rand(2, 3, 64, 64)
    features = source(images)
    assert [block.shape for block in features] == [(2, channels[0], 8, 8), (2, channels[1], 4, 4)]

    model = timm.create_model(name, features_only=True).eval()
    model.load_state_dict(load_file(path), strict=False)
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    # The layers behind are not in every file, and not compared.
    expected = model(normalised)[2:4]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_sources_have_no_gradient(resnet18_checkpoint):
    source = FeatureSource("resnet18", resnet18_checkpoint)
    assert not any(parameter.requires_grad for parameter in source.parameters())
    assert not any(module.training for module in source.modules())


class Mean(torch.nn.Module):
    """A source whose features are the means of its pixels."""

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, stride) for stride in (8, 16)]


def test_a_point_of_the_grid_is_centred_in_four_by_four_pixels(monkeypatch):
    monkeypatch.setattr(feature_source, "has_bfloat16", lambda device: False)
    rows, columns = np.mgrid[:64, :64]
    ramp = torch.from_numpy(np.stack([rows, columns, rows + columns]).astype(np.uint8))[None]
    fine, coarse = feature_blocks([Mean()], ramp)
    assert fine.shape == coarse.shape == (1, 3, 16, 16)
    centres = 4 * np.arange(16) + 1.5
    for block in (fine, coarse):
        # The border is not extrapolated.
        row, column, both = 255 * block[0, :, 2:-2, 2:-2].numpy()
        np.testing.assert_allclose(row, np.broadcast_to(centres[2:-2, None], (12, 12)), atol=0.01)
        np.testing.assert_allclose(column, np.broadcast_to(centres[None, 2:-2], (12, 12)), atol=0.01)
        np.testing.assert_allclose(both, centres[2:-2, None] + centres[None, 2:-2], atol=0.01)


def assert_refused(error, message, *arguments):
    with pytest.raises(error, match=message) as caught:
        FeatureSource(*arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_refused():
    assert_refused(ValueError, "timm has no model named 'resnet_18'. Similar names: .*resnet", "resnet_18")


def test_a_model_without_features_of_both_strides_is_refused():
    message = "vit_tiny_patch16_224 has no features at strides of 8 and 16 pixels"
    assert_refused(ValueError, message, "vit_tiny_patch16_224")


def test_a_missing_checkpoint_is_refused(tmp_path):
    message = "checkpoint of the source network does not exist: .*none.pth"
    assert_refused(FileNotFoundError, message, "resnet18", tmp_path / "none.pth")


def test_a_checkpoint_that_ends_too_early_is_refused(resnet18_checkpoint, tmp_path):
    state = {key: weight for key, weight in load_file(resnet18_checkpoint).items() if not key.startswith("layer3")}
    save_file(state, tmp_path / "short.safetensors")
    message = r"short.safetensors lacks 25 weights of resnet18, the first 'layer3.* all layers up to .* 16 pixels"
    assert_refused(RuntimeError, message, "resnet18", tmp_path / "short.safetensors")


def test_a_checkpoint_of_another_model_is_refused(lite_checkpoint):
    assert_refused(RuntimeError, "lite.safetensors holds weights of another architecture", "resnet18", lite_checkpoint)


def test_a_model_for_one_size_of_images_is_refused(monkeypatch):
    # As if its weights had been downloaded.
    create = feature_source.create_network
    monkeypatch.setattr(feature_source, "create_network", lambda name, pretrained, **kw: create(name, False, **kw))
    FeatureSource("resnet18").check_side(48)
    with pytest.raises(ValueError, match="swin_tiny_patch4_window7_224 has no maps of features for crops of 48 pixels"):
        FeatureSource("swin_tiny_patch4_window7_224").check_side(48)
