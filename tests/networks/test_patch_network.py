import pytest
import torch
from torch.nn import functional

from anomalib_students.networks.patch_network import PatchNetwork

# The operation, and the output as side and channels: as in Tables 4 (p = 65), 5a (p = 33) and 5b (p = 17) with their
# errata.
TABLES = {
    65: [
        *[("conv", 5, 61, 128), ("pool", 2, 30, 128), ("conv", 5, 26, 128), ("pool", 2, 13, 128)],
        *[("conv", 5, 9, 128), ("pool", 2, 4, 128), ("conv", 4, 1, 256), ("conv", 1, 1, 128)],
    ],
    33: [
        *[("conv", 5, 29, 128), ("pool", 2, 14, 128), ("conv", 5, 10, 256), ("pool", 2, 5, 256)],
        *[("conv", 2, 4, 256), ("conv", 4, 1, 128)],
    ],
    17: [("conv", 6, 12, 128), ("conv", 5, 8, 256), ("conv", 5, 4, 256), ("conv", 4, 1, 128)],
}

# The poolings of the paper's p = 33 and p = 65 drop the last row and column of an odd map: some pixels are never seen.
SEEN_SIDES = {17: 17, 33: 32, 65: 60}


@pytest.fixture(params=TABLES)
def patch_size(request):
    return request.param


def test_output_sizes_of_the_papers_networks_are_those_of_its_tables(patch_size):
    network = PatchNetwork(patch_size)
    outputs = []
    for module in (*network.convolutions, network.pool):
        module.register_forward_hook(lambda module, _, output: outputs.append((module, output.shape)))
    network(torch.rand(2, 3, patch_size, patch_size))
    for (module, shape), (operation, kernel_size, side, channels) in zip(outputs, TABLES[patch_size], strict=True):
        assert isinstance(module, torch.nn.Conv2d if operation == "conv" else torch.nn.MaxPool2d)
        assert module.kernel_size in {kernel_size, (kernel_size, kernel_size)}
        assert shape == (2, channels, side, side)


def test_forward_equals_the_layers_written_out(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=4).double()
    patches = torch.randn(3, 3, patch_size, patch_size, dtype=torch.float64)
    before = patches.clone()
    features = patches
    for number, (layer, convolution) in enumerate(zip(network.layers, network.convolutions, strict=True), start=1):
        features = functional.conv2d(features, convolution.weight, convolution.bias)
        if number < len(network.layers):
            features = torch.where(features > 0, features, 0.005 * features)
        if layer.pool:
            features = functional.max_pool2d(features, kernel_size=2, stride=2)
    assert features.shape == (3, 4, 1, 1)
    torch.testing.assert_close(network(patches), features, rtol=0, atol=1e-12)
    assert torch.equal(patches, before)


@pytest.mark.usefixtures("narrow_networks")
def test_on_an_image_it_describes_the_patches_on_a_grid_of_its_stride(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=5).double()
    stride = network.stride

    image = torch.randn(1, 3, patch_size + 2 * stride, patch_size + 3 * stride, dtype=torch.float64)
    descriptors = network(image)
    assert descriptors.shape == (1, 5, 3, 4)
    for row in range(3):
        for column in range(4):
            patch = image[..., row * stride :, column * stride :][..., :patch_size, :patch_size]
            expected = network(patch)[..., 0, 0]
            torch.testing.assert_close(descriptors[..., row, column], expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("narrow_networks")
def test_a_descriptor_sees_its_patch_and_no_pixel_outside(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=8)
    stride = network.stride
    images = torch.randn(16, 3, patch_size + 2 * stride, patch_size + 2 * stride, requires_grad=True)
    network(images)[..., 1, 1].square().sum().backward()

    seen = images.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    for span in (rows, columns):
        assert (int(span.min()), int(span.max())) == (stride, stride + SEEN_SIDES[patch_size] - 1)


@pytest.mark.usefixtures("narrow_networks")
def test_layers_applied_in_two_parts_are_those_applied_at_once():
    network = PatchNetwork(33, descriptor_dim=6)
    images = torch.rand(2, 3, 45, 41)
    for index in range(len(network.layers) + 1):
        torch.testing.assert_close(network(network(images, stop=index), first=index), network(images))


def test_initialised_networks_keep_the_variance_of_their_input():
    network = PatchNetwork(33, descriptor_dim=64)
    network.initialise()
    with torch.no_grad():
        deviation = network(torch.randn(8, 3, 61, 61)).std()
    # Half of the input's, and more of it after each pooling, which takes the largest of four. By default, torch draws
    # weights that leave less than 0.1.
    assert 0.3 < float(deviation) < 4
