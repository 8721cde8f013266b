"""Dense descriptors against the patch network on patches that are cropped one by one."""

from itertools import product

import numpy as np
import pytest
import torch
from allpairspy import AllPairs
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from anomalib_students.networks.dense import OUTPUT_STRIDES, dense_descriptors, reflect_pad
from anomalib_students.networks.lean import LeanStudent, LeanTeacher
from anomalib_students.networks.patch_network import PatchNetwork

PATCH_SIZES = (17, 33, 65)
NETWORKS = [*((PatchNetwork, size) for size in PATCH_SIZES), *((kind, 83) for kind in (LeanTeacher, LeanStudent))]


def make_network(kind, patch_size, descriptor_dim=4, dtype=torch.float64):
    """A network of the paper or a lean one, whose descriptors differ from pixel to pixel as much as 1."""
    network = kind(patch_size, descriptor_dim) if kind is PatchNetwork else kind(80 + descriptor_dim)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    return network.to(dtype).requires_grad_(requires_grad=False)


def make_images(*shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape)).to(dtype)


def sample_positions(rows, columns, limit):
    """All positions of a grid if they are few, else its corners, samples of its borders, and random ones."""
    if rows * columns <= limit:
        return sorted(product(range(rows), range(columns)))
    random = np.random.default_rng(1)
    positions = set(product((0, rows - 1), (0, columns - 1)))
    while len(positions) < limit:
        row, column = int(random.integers(rows)), int(random.integers(columns))
        on_border = [(0, column), (rows - 1, column), (row, 0), (row, columns - 1)]
        positions |= {(row, column), on_border[random.integers(4)]}
    return sorted(positions)


def describe_cropped_patches(network, images, pixels):
    """Crop the patch around each pixel from the padded images; return descriptors of shape (n, B, d)."""
    border = (network.patch_size - 1) // 2
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (border, border), (border, border)), mode="reflect")
    size = network.patch_size
    descriptors = []
    for row, column in pixels:
        patches = padded[:, :, row : row + size, column : column + size]
        assert patches.shape[-2:] == (size, size)
        descriptors.append(network(torch.from_numpy(np.ascontiguousarray(patches)))[..., 0, 0])
    return torch.stack(descriptors)


def assert_dense_equals_patches(network, images, output_stride, tolerance, limit=48):
    dense = dense_descriptors(network, images, output_stride)
    height, width = images.shape[-2:]
    rows, columns = -(-height // output_stride), -(-width // output_stride)
    assert dense.shape == (len(images), network.descriptor_dim, rows, columns)
    assert dense.dtype == images.dtype

    positions = sample_positions(rows, columns, limit)
    pixels = [(row * output_stride, column * output_stride) for row, column in positions]
    expected = describe_cropped_patches(network, images, pixels)
    actual = torch.stack([dense[..., row, column] for row, column in positions])
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize(
    ("network", "size", "output_stride"),
    list(AllPairs([NETWORKS, [(1, 1), (1, 9), (10, 1), (17, 33), (31, 30), (65, 66)], OUTPUT_STRIDES])),
)
def test_dense_equals_patches_for_any_size(network, size, output_stride):
    assert_dense_equals_patches(make_network(*network), make_images(2, 3, *size), output_stride, tolerance=1e-12)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_dense_equals_patches_at_every_pixel(patch_size):
    images = make_images(1, 3, 14, 11)
    assert_dense_equals_patches(make_network(PatchNetwork, patch_size), images, 1, tolerance=1e-12, limit=14 * 11)


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_dense_equals_patches_at_full_width(patch_size):
    network = make_network(PatchNetwork, patch_size, descriptor_dim=128, dtype=torch.float32)
    images = make_images(1, 3, 9, 10, dtype=torch.float32)
    for output_stride in (1, 4):
        # float32 sums of up to 6,400 products, in another order for other sizes: 1.4e-5 was seen.
        assert_dense_equals_patches(network, images, output_stride, tolerance=5e-5, limit=8)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_neighbouring_descriptors_differ(patch_size):
    """Else the comparisons above could not tell one pixel from the next."""
    dense = dense_descriptors(make_network(PatchNetwork, patch_size), make_images(1, 3, 12, 12))
    assert (dense.diff(dim=-1).abs().amax(dim=1) > 1e-3).all()
    assert (dense.diff(dim=-2).abs().amax(dim=1) > 1e-3).all()


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_gradient_of_dense_equals_that_of_patches(patch_size):
    network = make_network(PatchNetwork, patch_size).requires_grad_()
    images = make_images(1, 3, 5, 6)
    parameters = list(network.parameters())

    dense = dense_descriptors(network, images).square().sum()
    cropped = describe_cropped_patches(network, images, product(range(5), range(6))).square().sum()
    actual = torch.autograd.grad(dense, parameters)
    expected = torch.autograd.grad(cropped, parameters)
    for gradient, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("output_stride", [0, 3, 16, -1])
def test_other_output_strides_are_refused(output_stride):
    with pytest.raises(ValueError, match=rf"output stride must be one of \(1, 2, 4, 8\), got {output_stride}"):
        dense_descriptors(PatchNetwork(17, 1), torch.rand(1, 3, 8, 8), output_stride)


SIDES, MARGINS = st.integers(1, 12), st.integers(0, 30)


def reflected(size, before, after):
    """Indices that numpy reflects a side to, by one period of it: numpy 1.26 errs if it reflects more than once."""
    period = np.pad(np.arange(size), (0, max(0, size - 2)), mode="reflect")
    return period[np.arange(-before, size + after) % len(period)]


@given(SIDES, SIDES, MARGINS, MARGINS, MARGINS, MARGINS)
@example(height=1, width=40, left=32, right=39, top=35, bottom=32)
@example(height=3, width=3, left=0, right=0, top=0, bottom=8)
def test_reflect_pad_equals_numpy(height, width, left, right, top, bottom):
    images = make_images(2, 3, height, width)
    expected = images.numpy()[..., reflected(height, top, bottom), :][..., reflected(width, left, right)]
    assert np.array_equal(reflect_pad(images, left, right, top, bottom).numpy(), expected)
