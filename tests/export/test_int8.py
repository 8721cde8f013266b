"""Equalised networks compute what they did, in channels of like ranges."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import nn

from anomalib_students import UninformedStudentsModel
from anomalib_students.export.int8 import equalised
from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.patch_network import ARCHITECTURES, PatchNetwork

LARGE = 1e3


def random_network(patch_size: int, architecture: str) -> PatchNetwork:
    """Make a network in float64."""
    torch.manual_seed(patch_size)
    network = PatchNetwork(patch_size, architecture=architecture).double().requires_grad_(requires_grad=False)
    for convolution in network.convolutions:
        convolution.bias.normal_()
    return network


def scale_channels(network: PatchNetwork) -> None:
    """Make one channel of each hidden layer large, and the weights that read it small."""
    for convolution, following in pairwise(network.convolutions):
        convolution.weight[3] *= LARGE
        convolution.bias[3] *= LARGE
        following.weight[:, 3] /= LARGE


class Dense(nn.Module):
    """Describes every fourth pixel."""

    def __init__(self, network: PatchNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return dense_descriptors(self.network, images, output_stride=4)


def channel_ranges(network: PatchNetwork, images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Largest absolute value of each channel of each hidden layer."""
    features = images
    for layer, convolution in zip(network.layers[:-1], network.convolutions, strict=False):
        features = network.activation(convolution(features))
        yield features.abs().amax(dim=(0, 2, 3))
        features = network.pool(features) if layer.pool else features


@pytest.mark.parametrize(
    ("architecture", "patch_size"), [(name, size) for name in ("paper", "light") for size in ARCHITECTURES[name]]
)
def test_descriptors_stay_and_ranges_become_alike(architecture: str, patch_size: int) -> None:
    network = random_network(patch_size, architecture)
    images = torch.rand(2, 3, 72, 68, dtype=torch.float64)
    model = Dense(network)
    expected = model(images)
    with equalised(model, images.split(1)):
        of_even = list(channel_ranges(network, images))
    scale_channels(network)
    original = {name: value.clone() for name, value in network.state_dict().items()}
    assert max(ranges.max() / ranges.median() for ranges in channel_ranges(network, images)) > LARGE / 20
    with equalised(model, images.split(1)):
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)
        # However the channels were scaled, they become the same, but for output channels whose largest weight is
        # that of the scaled channel.
        for ranges, even in zip(channel_ranges(network, images), of_even, strict=True):
            torch.testing.assert_close(ranges, even, rtol=0.05, atol=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, original[name])


def test_silent_channel_stays() -> None:
    network = random_network(33, "light")
    network.convolutions[0].weight[5] = 0
    network.convolutions[0].bias[5] = 0
    network.convolutions[1].weight[:, 6] = 0
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    expected = network(images)
    with equalised(network, [images]):
        torch.testing.assert_close(network(images), expected)
        assert all(value.isfinite().all() for value in network.state_dict().values())


def test_weights_return_after_an_error() -> None:
    model = UninformedStudentsModel(patch_sizes=(33,), n_students=1, architecture="light")
    original = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="channels"), equalised(model, [torch.rand(1, 3, 48, 48)]):
        model(torch.rand(1, 4, 48, 48))
    for name, value in model.state_dict().items():
        assert torch.equal(value, original[name])


@pytest.mark.parametrize(
    ("n_students", "shared_layers", "patch_sizes"), [(1, 2, (33,)), (2, 2, (33,)), (2, 0, (17, 33))]
)
def test_scores_of_all_students_and_scales_stay(n_students: int, shared_layers: int, patch_sizes: tuple) -> None:
    """The channels that teacher and students read are scaled for all of them at once."""
    torch.manual_seed(0)
    arguments = {"patch_sizes": patch_sizes, "architecture": "light", "shared_layers": shared_layers}
    model = UninformedStudentsModel(n_students=n_students, **arguments).double().eval()
    for scale in model.scales:
        for network in (scale.teacher, *scale.students):
            scale_channels(network.requires_grad_(requires_grad=False))
    images = torch.rand(2, 3, 48, 40, dtype=torch.float64)
    expected = model(images).anomaly_map
    with equalised(model, [images]):
        torch.testing.assert_close(model(images).anomaly_map, expected, rtol=1e-4, atol=1e-4)
        for scale in model.scales:
            for ranges in channel_ranges(scale.teacher, images):
                assert ranges.max() < LARGE / 10 * ranges.median()
    assert torch.equal(model(images).anomaly_map, expected)


def test_model_without_patch_networks_is_not_run() -> None:
    def images() -> Iterator[torch.Tensor]:
        pytest.fail("no image is needed")
        yield torch.zeros(0)

    with equalised(nn.Conv2d(3, 4, 3), images()):
        pass
