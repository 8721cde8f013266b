"""The lean networks of the benchmarks: every patch is described as it would be if it were cropped out."""

import pytest
import timm
import torch


@pytest.fixture(scope="module")
def network():
    """EfficientNet-Lite0 with random weights and statistics."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network


@torch.no_grad()
def test_dense_descriptors_are_those_of_the_patches(network):
    from lean import PATCH_SIZE, STRIDE, Student, Teacher

    teacher, student = Teacher(network), Student()
    image = torch.randn(1, 3, PATCH_SIZE + 2 * STRIDE, PATCH_SIZE + STRIDE)
    shared = teacher.shared(image)
    for describe in (teacher, student):
        descriptors = describe(shared)
        assert descriptors.shape == (1, 144, 3, 2)
        for row, column in ((0, 0), (2, 1)):
            top, left = STRIDE * row, STRIDE * column
            patch = image[..., top : top + PATCH_SIZE, left : left + PATCH_SIZE]
            of_patch = describe(teacher.shared(patch))
            torch.testing.assert_close(
                descriptors[..., row : row + 1, column : column + 1], of_patch, atol=1e-4, rtol=0
            )


@torch.no_grad()
def test_the_teacher_computes_what_its_source_does(network):
    from lean import Teacher
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    images = torch.rand(1, 3, 96, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    teacher = Teacher(network)
    own = teacher.shared((images - mean) / std)
    features = network.bn1(network.conv_stem((images - 0.5) / 0.5))
    source = network.blocks[0](features)
    torch.testing.assert_close(own, source[..., 1 : 1 + own.shape[-2], 1 : 1 + own.shape[-1]], atol=1e-4, rtol=0)
    # Of odd sides, the source pads one pixel on each side.
    odd = source[..., :47, :47]
    own, source = teacher.stride_4(odd[..., 1:, 1:]), network.blocks[1](odd)
    torch.testing.assert_close(own, source[..., 2 : 2 + own.shape[-2], 2 : 2 + own.shape[-1]], atol=1e-4, rtol=0)


def test_whitened_levels_vary_alike():
    from lean import LEVELS, Whitening

    torch.manual_seed(0)
    mixing = torch.block_diag(*(torch.randn(d, d) + 4 * torch.eye(d) for d in LEVELS))
    vectors = torch.randn(4000, sum(LEVELS)) @ mixing + 3
    whitened = Whitening(vectors)(vectors.T.reshape(1, -1, 40, 100))[0].flatten(1)
    torch.testing.assert_close(whitened.mean(dim=1), torch.zeros(sum(LEVELS)), atol=1e-3, rtol=0)
    variances = whitened.var(dim=1)
    assert variances.max() < 1.01
    assert variances.median() > 0.9
