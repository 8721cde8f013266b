import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.networks.weights import load_teacher, teacher_path
from anomalib_students.teacher.source import DistillationSource


def make_source(checkpoint, layer="layer3", input_size=32):
    return DistillationSource("resnet18", checkpoint, layer, input_size)


def make_patches():
    return torch.randn(4, 3, 17, 17)


@pytest.mark.parametrize("patch_size", [17, 65])
@pytest.mark.parametrize(("layer", "index", "dim"), [("layer1", 0, 64), ("layer2", 1, 128), ("layer3", 2, 256)])
def test_descriptor_is_the_mean_of_the_layer_over_the_resized_patch(resnet18_checkpoint, layer, index, dim, patch_size):
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    reference.load_state_dict(load_file(resnet18_checkpoint))
    patches = torch.randn(2, 3, patch_size, patch_size)
    with torch.no_grad():
        features = reference(transforms.resize(patches, [48, 48], antialias=True))[index]

    source = make_source(resnet18_checkpoint, layer, input_size=48)
    assert source.dim == dim
    torch.testing.assert_close(source(patches), features.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_without_a_layer_the_descriptor_is_the_pooled_feature_vector(tmp_path):
    reference = timm.create_model("resnet18").eval()
    save_file(reference.state_dict(), tmp_path / "full.safetensors")
    source = make_source(tmp_path / "full.safetensors", layer=None)
    patches = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = functional.adaptive_avg_pool2d(reference.forward_features(patches), 1).flatten(1)
    assert source.dim == 512
    torch.testing.assert_close(source(patches), expected, rtol=1e-4, atol=1e-5)


def test_a_pytorch_state_dict_is_loaded_as_safetensors_are(resnet18_checkpoint, tmp_path):
    torch.save(load_file(resnet18_checkpoint), tmp_path / "weights.pth")
    patches = make_patches()
    from_state_dict = make_source(tmp_path / "weights.pth")(patches)
    assert torch.equal(from_state_dict, make_source(resnet18_checkpoint)(patches))


def test_a_bundled_teacher_is_a_source_too():
    source = DistillationSource("bundled")
    teacher = load_teacher(teacher_path("bundled", 33), 33, 128)
    patches = torch.rand(3, 3, 33, 33)
    assert source.dim == 128
    torch.testing.assert_close(source(patches), teacher(patches).flatten(1))
    assert source(torch.rand(2, 3, 17, 17)).shape == (2, 128)


def test_it_stays_in_evaluation_mode(resnet18_checkpoint):
    source = make_source(resnet18_checkpoint)
    patches = make_patches()
    before = source(patches)
    source.train()
    assert not any(module.training for module in source.modules())
    assert torch.equal(source(patches), before)


def test_it_has_no_gradient(resnet18_checkpoint):
    source = make_source(resnet18_checkpoint)
    assert not any(parameter.requires_grad for parameter in source.parameters())
    assert not source(make_patches().requires_grad_()).requires_grad


def assert_refused(error, message, *arguments):
    with pytest.raises(error, match=message) as caught:
        DistillationSource(*arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_told_with_similar_names(resnet18_checkpoint):
    assert_refused(
        ValueError, "timm has no model named 'resnet_18'. Similar names: .*resnet", "resnet_18", resnet18_checkpoint
    )


def test_an_unknown_layer_is_told_with_the_known_ones(resnet18_checkpoint):
    message = "resnet18 has no layer 'layer9' to take descriptors from: choose from .*layer3"
    assert_refused(ValueError, message, "resnet18", resnet18_checkpoint, "layer9")


def test_a_missing_checkpoint_is_told(tmp_path):
    message = "checkpoint of the source network does not exist: .*none.pth"
    assert_refused(FileNotFoundError, message, "resnet18", tmp_path / "none.pth", "layer3")


def test_a_checkpoint_with_other_shapes_is_told(resnet18_checkpoint, tmp_path):
    state = load_file(resnet18_checkpoint)
    state["layer2.0.conv1.weight"] = torch.zeros(128, 32, 3, 3)
    save_file(state, tmp_path / "other.safetensors")
    message = "other.safetensors holds weights of another architecture than resnet18"
    assert_refused(RuntimeError, message, "resnet18", tmp_path / "other.safetensors", "layer3")


def test_a_checkpoint_that_lacks_weights_is_told(resnet18_checkpoint):
    """A ResNet-34 begins with the layers of a ResNet-18, and has more in each stage."""
    message = "resnet18.safetensors lacks .* weights of resnet34, the first 'layer1.2.conv1.weight'"
    assert_refused(RuntimeError, message, "resnet34", resnet18_checkpoint, "layer3")


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_a_checkpoint_with_more_weights_than_the_model_is_told(layer, tmp_path):
    path = tmp_path / "resnet34.safetensors"
    save_file(timm.create_model("resnet34").state_dict(), path)
    message = "resnet34.safetensors holds weights of another architecture than resnet18"
    assert_refused(RuntimeError, message, "resnet18", path, layer)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5])
def test_a_damaged_checkpoint_is_told(resnet18_checkpoint, tmp_path, suffix, kept):
    path = tmp_path / f"damaged.{suffix}"
    state = {name: weight for name, weight in load_file(resnet18_checkpoint).items() if name.startswith("layer1")}
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_refused(RuntimeError, rf"damaged\.{suffix}", "resnet18", path, "layer3")


def test_a_checkpoint_that_is_no_state_dict_is_told(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    assert_refused(RuntimeError, r"list\.pth", "resnet18", tmp_path / "list.pth", "layer3")


def test_without_pretrained_weights_the_source_waits_for_others():
    source, other = (DistillationSource("resnet18", layer="layer2", pretrained=False) for _ in range(2))
    patches = make_patches()
    assert not torch.equal(source(patches), other(patches))
    other.load_state_dict(source.state_dict())
    torch.testing.assert_close(source(patches), other(patches))
