"""What a lean teacher starts from, against timm's own features."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from anomalib_students.networks.lean import LeanTeacher
from anomalib_students.teacher.lean_start import standardise, start_from
from anomalib_students.teacher.sources import FeatureSource

NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source with random weights and statistics."""
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("source") / "lite.safetensors"
    save_file(model.state_dict(), path)
    return FeatureSource(NAME, path)


@torch.no_grad()
def test_stages_are_the_features_of_timms_network_away_from_the_border(source):
    teacher = LeanTeacher(84)
    start_from(teacher, [source])
    image = torch.rand(1, 3, 320, 320)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    reference = timm.create_model(NAME, features_only=True, out_indices=(0, 1, 2)).eval()
    reference.load_state_dict(source.model.state_dict(), strict=False)
    features = reference((image - source.mean) / source.std)
    found = set()
    # timm pads, more on one side than on the other, and our layers lose a border instead: the same at some offset.
    for shift in (0, 2, 4, 6):
        first = teacher.first_features(((image - mean) / std)[..., shift:, shift:])
        seen = [first, of_19 := teacher.stages[1](first), teacher.stages[2](of_19)]
        for index, (stage, feature) in enumerate(zip(seen, features, strict=True)):
            inner = stage[..., 8:-8, 8:-8]
            assert inner.std() > 0.01
            side = inner.shape[-1]
            for offset in range(feature.shape[-1] - side - 4):
                other = feature[..., offset : offset + side, offset : offset + side]
                if torch.allclose(other, inner, atol=1e-4):
                    found.add(index)
    assert found == {0, 1, 2}


@torch.no_grad()
def test_the_head_reads_features_as_if_they_were_standardised(source):
    teacher = LeanTeacher(84)
    teacher.initialise()
    start_from(teacher, [source])
    images = torch.randn(4, 3, 163, 163)
    weights = [teacher.convolutions[index].weight.clone() for index in (0, -1)]
    of_19 = teacher.stages[1](teacher.first_features(images))
    standardise(teacher, images.split(1))
    for index, before, features in zip((0, -1), weights, (of_19, teacher.stages[2](of_19)), strict=True):
        channels = features.movedim(1, 0).flatten(1)
        after, ratio = teacher.convolutions[index], 1 / channels.std(dim=1, correction=0)
        read = before[:, -len(channels) :] * ratio.view(-1, 1, 1)
        torch.testing.assert_close(after.weight[:, -len(channels) :], read, rtol=1e-4, atol=1e-6)
        bias = -(read * channels.mean(dim=1).view(-1, 1, 1)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(after.bias, bias, rtol=1e-3, atol=1e-4)


def test_without_that_network_it_says_so(resnet18_checkpoint):
    with pytest.raises(ValueError, match="starts from the source tf_efficientnet_lite0, which is missing"):
        start_from(LeanTeacher(84), [FeatureSource("resnet18", resnet18_checkpoint)])
