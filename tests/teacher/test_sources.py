"""Source networks against timm's own, and what their files may hold."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.teacher import sources
from anomalib_students.teacher.sources import DistillationSource, FeatureSource, feature_blocks


@pytest.fixture
def lite_checkpoint(tmp_path):
    """Random weights of a whole EfficientNet."""
    path = tmp_path / "lite.safetensors"
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), path)
    return path


def make_patches():
    return torch.randn(4, 3, 17, 17)


@pytest.mark.parametrize("patch_size", [17, 65])
@pytest.mark.parametrize(("layer", "index", "dim"), [("layer1", 0, 64), ("layer3", 2, 256)])
def test_descriptor_is_the_mean_of_the_layer_over_the_resized_patch(resnet18_checkpoint, layer, index, dim, patch_size):
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    reference.load_state_dict(load_file(resnet18_checkpoint))
    patches = torch.randn(2, 3, patch_size, patch_size)
    with torch.no_grad():
        features = reference(transforms.resize(patches, [48, 48], antialias=True))[index]

    source = DistillationSource("resnet18", resnet18_checkpoint, layer, input_size=48)
    assert source.dim == dim
    torch.testing.assert_close(source(patches), features.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_without_a_layer_the_descriptor_is_the_pooled_feature_vector(tmp_path):
    reference = timm.create_model("resnet18").eval()
    # A PyTorch state dict is loaded as safetensors are.
    torch.save(reference.state_dict(), tmp_path / "full.pth")
    source = DistillationSource("resnet18", tmp_path / "full.pth", input_size=32)
    patches = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = functional.adaptive_avg_pool2d(reference.forward_features(patches), 1).flatten(1)
    assert source.dim == 512
    torch.testing.assert_close(source(patches), expected, rtol=1e-4, atol=1e-5)


def test_sources_are_frozen_in_evaluation_mode(resnet18_checkpoint):
    source = DistillationSource("resnet18", resnet18_checkpoint, "layer3", 32)
    patches = make_patches().requires_grad_()
    for network in (source, FeatureSource("resnet18", resnet18_checkpoint)):
        assert not any(module.training for module in network.model.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not source(patches).requires_grad


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
    torch.testing.assert_close(features, model(normalised)[2:4], rtol=1e-4, atol=1e-4)


class Mean(torch.nn.Module):
    """A source whose features are the means of its pixels."""

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, stride) for stride in (8, 16)]


def test_a_point_of_the_grid_is_centred_in_four_by_four_pixels(monkeypatch):
    monkeypatch.setattr(sources, "has_bfloat16", lambda device: False)
    rows, columns = np.mgrid[:64, :64]
    ramp = torch.from_numpy(np.stack([rows, columns, rows + columns]).astype(np.uint8))[None]
    fine, coarse, native = feature_blocks([Mean()], ramp)
    assert fine.shape == coarse.shape == native.shape == (1, 3, 16, 16)
    # The last block is of the crop as it is, and so as coarse again.
    np.testing.assert_allclose(255 * native[0, 0, 2:12:4, 8].numpy(), 16 * np.arange(3) + 9.5, atol=0.01)
    centres = 4 * np.arange(16) + 1.5
    for block in (fine, coarse):
        # The border is not extrapolated.
        row, column, both = 255 * block[0, :, 2:-2, 2:-2].numpy()
        np.testing.assert_allclose(row, np.broadcast_to(centres[2:-2, None], (12, 12)), atol=0.01)
        np.testing.assert_allclose(column, np.broadcast_to(centres[None, 2:-2], (12, 12)), atol=0.01)
        np.testing.assert_allclose(both, centres[2:-2, None] + centres[None, 2:-2], atol=0.01)


def assert_refused(error, message, make, *arguments):
    with pytest.raises(error, match=message) as caught:
        make(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [DistillationSource, FeatureSource])
def test_what_is_not_there_is_told(make, tmp_path):
    assert_refused(ValueError, "timm has no model named 'resnet_18'. Similar names: .*resnet", make, "resnet_18")
    message = "checkpoint of the source network does not exist: .*none.pth"
    assert_refused(FileNotFoundError, message, make, "resnet18", tmp_path / "none.pth")


def test_a_model_without_the_layers_is_told(resnet18_checkpoint):
    message = "resnet18 has no layer 'layer9' to take descriptors from: choose from .*layer3"
    assert_refused(ValueError, message, DistillationSource, "resnet18", resnet18_checkpoint, "layer9")
    message = "vit_tiny_patch16_224 has no features at strides 8 and 16"
    assert_refused(ValueError, message, FeatureSource, "vit_tiny_patch16_224")


def test_a_checkpoint_of_another_architecture_is_told(resnet18_checkpoint, lite_checkpoint, tmp_path):
    state = load_file(resnet18_checkpoint)
    state["layer2.0.conv1.weight"] = torch.zeros(128, 32, 3, 3)
    save_file(state, tmp_path / "shapes.safetensors")
    # A ResNet-34 begins with the layers of a ResNet-18, and has more in each stage.
    save_file(timm.create_model("resnet34").state_dict(), tmp_path / "resnet34.safetensors")
    for path in (tmp_path / "shapes.safetensors", tmp_path / "resnet34.safetensors", lite_checkpoint):
        message = f"{path.name} holds weights of another architecture than resnet18"
        assert_refused(RuntimeError, message, DistillationSource, "resnet18", path, "layer2")
        assert_refused(RuntimeError, message, FeatureSource, "resnet18", path)


def test_a_checkpoint_that_lacks_weights_is_told(resnet18_checkpoint, tmp_path):
    message = "resnet18.safetensors lacks .* weights of resnet34, the first 'layer1.2.conv1.weight'"
    assert_refused(RuntimeError, message, DistillationSource, "resnet34", resnet18_checkpoint, "layer3")
    state = {key: weight for key, weight in load_file(resnet18_checkpoint).items() if not key.startswith("layer3")}
    save_file(state, tmp_path / "short.safetensors")
    message = r"short.safetensors lacks 25 weights of resnet18, the first 'layer3.* a file of the whole network"
    assert_refused(RuntimeError, message, FeatureSource, "resnet18", tmp_path / "short.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5])
def test_a_damaged_checkpoint_is_told(resnet18_checkpoint, tmp_path, suffix, kept):
    path = tmp_path / f"damaged.{suffix}"
    state = {name: weight for name, weight in load_file(resnet18_checkpoint).items() if name.startswith("layer1")}
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_refused(RuntimeError, rf"damaged\.{suffix}", DistillationSource, "resnet18", path, "layer3")


def test_a_checkpoint_that_is_no_state_dict_is_told(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    assert_refused(RuntimeError, r"list\.pth", DistillationSource, "resnet18", tmp_path / "list.pth", "layer3")
