import pytest
import torch
from torch.nn import functional

from anomalib_students.patch_network import ARCHITECTURES, PatchNetwork, check_patch_size

# Tables 4 (p = 65), 5a (p = 33) and 5b (p = 17) with their errata: the operation, and the output as side and channels.
TABLES = {
    65: [
        ("conv", 5, 61, 128),
        ("pool", 2, 30, 128),
        ("conv", 5, 26, 128),
        ("pool", 2, 13, 128),
        ("conv", 5, 9, 128),
        ("pool", 2, 4, 128),
        ("conv", 4, 1, 256),
        ("conv", 1, 1, 128),
    ],
    33: [
        ("conv", 5, 29, 128),
        ("pool", 2, 14, 128),
        ("conv", 5, 10, 256),
        ("pool", 2, 5, 256),
        ("conv", 2, 4, 256),
        ("conv", 4, 1, 128),
    ],
    17: [
        ("conv", 6, 12, 128),
        ("conv", 5, 8, 256),
        ("conv", 5, 4, 256),
        ("conv", 4, 1, 128),
    ],
}

# The poolings of p = 33 and p = 65 drop the last row and column of an odd map, so that some pixels are never seen.
SEEN_SIDES = {17: 17, 33: 32, 65: 60}


@pytest.fixture(params=sorted(TABLES))
def patch_size(request):
    return request.param


def test_every_patch_size_of_the_paper_has_an_architecture():
    assert sorted(ARCHITECTURES) == sorted(TABLES)


def test_output_sizes_are_those_of_the_tables(patch_size):
    network = PatchNetwork(patch_size)
    outputs = []
    for module in (*network.convolutions, network.pool):
        module.register_forward_hook(lambda module, _, output: outputs.append((module, output.shape)))
    network(torch.rand(2, 3, patch_size, patch_size))

    assert len(outputs) == len(TABLES[patch_size])
    for (module, shape), (operation, kernel_size, side, channels) in zip(outputs, TABLES[patch_size], strict=True):
        assert isinstance(module, torch.nn.Conv2d if operation == "conv" else torch.nn.MaxPool2d)
        assert module.kernel_size in {kernel_size, (kernel_size, kernel_size)}
        assert shape == (2, channels, side, side)


def test_forward_equals_the_tables_written_out(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=4).double()
    patches = torch.randn(3, 3, patch_size, patch_size, dtype=torch.float64)

    convolutions = iter(network.convolutions)
    features = patches
    for number, (operation, *_) in enumerate(TABLES[patch_size], start=1):
        if operation == "pool":
            features = functional.max_pool2d(features, kernel_size=2, stride=2)
            continue
        convolution = next(convolutions)
        features = functional.conv2d(features, convolution.weight, convolution.bias)
        if number < len(TABLES[patch_size]):
            features = torch.where(features > 0, features, 0.005 * features)

    torch.testing.assert_close(network(patches), features, rtol=0, atol=1e-12)


def test_forward_leaves_its_input_alone(patch_size):
    patches = torch.randn(1, 3, patch_size, patch_size)
    before = patches.clone()
    PatchNetwork(patch_size, descriptor_dim=2)(patches)
    assert torch.equal(patches, before)


@pytest.mark.usefixtures("narrow_networks")
def test_every_convolution_but_the_last_is_followed_by_the_leaky_slope(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=3).double()
    # One path of unit weights through the network, on which a negative bias alone decides the sign.
    for convolution in network.convolutions:
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.constant_(convolution.bias, -1.0)
        convolution.weight.data[:, 0, 0, 0] = 1.0

    expected = -1.0
    for _ in range(len(network.convolutions) - 1):
        expected = 0.005 * expected - 1.0
    descriptors = network(torch.zeros(1, 3, patch_size, patch_size, dtype=torch.float64))
    torch.testing.assert_close(descriptors, torch.full_like(descriptors, expected))


@pytest.mark.parametrize("descriptor_dim", [1, 7, 128])
def test_descriptor_dimension_can_be_chosen(patch_size, descriptor_dim):
    network = PatchNetwork(patch_size, descriptor_dim)
    assert network.descriptor_dim == descriptor_dim
    assert network(torch.rand(2, 3, patch_size, patch_size)).shape == (2, descriptor_dim, 1, 1)


@pytest.mark.usefixtures("narrow_networks")
def test_on_an_image_it_describes_the_patches_on_a_grid_of_its_stride(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=5).double()
    stride = {17: 1, 33: 4, 65: 8}[patch_size]
    assert network.stride == stride

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


@pytest.mark.parametrize("patch_size", [0, 16, 19, 64])
def test_a_patch_size_without_architecture_is_refused(patch_size):
    for refuse in (check_patch_size, PatchNetwork):
        with pytest.raises(ValueError, match=rf"patch size {patch_size}: choose from \[17, 33, 65\]"):
            refuse(patch_size)


@pytest.mark.parametrize("descriptor_dim", [0, -1])
def test_a_descriptor_dimension_below_one_is_refused(descriptor_dim):
    with pytest.raises(ValueError, match=f"descriptor dimension must be at least 1, got {descriptor_dim}"):
        PatchNetwork(17, descriptor_dim)
