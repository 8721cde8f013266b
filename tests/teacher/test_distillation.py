"""What a teacher predicts at which pixel, and in which order it sees the crops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from anomalib_students.networks.patch_network import ARCHITECTURES
from anomalib_students.teacher import distillation
from anomalib_students.teacher.distil import DistilSettings
from anomalib_students.teacher.distillation import Distillation, valid_points
from anomalib_students.teacher.distillation_data import DistillationData

NETWORKS = [(architecture, patch_size) for architecture, sizes in ARCHITECTURES.items() for patch_size in sizes]


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    monkeypatch.setattr(distillation, "has_bfloat16", lambda device: False)


def create_module(**settings):
    return Distillation(DistilSettings(images=Path(), output=Path(), **settings))


def normalise(crops):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (crops / 255 - mean) / std


@pytest.mark.parametrize("patch_size", [17, 33, 65])
@pytest.mark.parametrize("side", [72, 80, 192])
def test_all_patches_that_lie_within_the_crop_are_described(side, patch_size):
    points, pixels = valid_points(side, patch_size)
    border = patch_size // 2
    inside = [point for point in range(side // 4) if border <= 4 * point + 2 < side - border]
    assert list(range(points.start, points.stop)) == inside
    assert pixels.start == 4 * inside[0] + 2 - border >= 0
    assert pixels.stop == 4 * inside[-1] + 2 + border + 1 <= side


def test_a_crop_without_room_for_a_patch_is_refused():
    assert valid_points(72, 65)
    with pytest.raises(ValueError, match="A crop of 64 pixels has no room for a patch of 65 pixels"):
        valid_points(64, 65)


def test_a_network_that_copies_a_pixel_gives_that_in_the_middle_of_the_grid_point(monkeypatch):
    """Descriptor and target of a point agree if the target is the pixel (4 i + 2, 4 j + 2) itself."""
    module = create_module(patch_size=17, descriptor_dim=3)
    copied = torch.eye(3)
    with torch.no_grad():
        for index, convolution in enumerate(module.teacher.convolutions):
            # The kernels of 6, 5, 5 and 4 pixels take their third: together the ninth of 17.
            convolution.weight.zero_()
            convolution.weight[:3, :3, 2, 2] = copied
            convolution.bias.zero_()
            # No value is negative, so that none is changed by the activations.
            convolution.bias[:3] = {0: 10.0, 3: -10.0}.get(index, 0.0)
    crops = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8)
    targets = normalise(crops)[..., 2::4, 2::4].half()
    descriptors, expected = module.predict((crops, targets))
    assert descriptors.shape == expected.shape == (2, 3, 8, 8)
    torch.testing.assert_close(descriptors, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize(("architecture", "patch_size"), NETWORKS)
def test_each_descriptor_is_that_of_its_patch(architecture, patch_size, narrow_networks):
    module = create_module(patch_size=patch_size, descriptor_dim=8, architecture=architecture)
    crops = torch.randint(256, (1, 3, 96, 96), dtype=torch.uint8)
    points = torch.cartesian_prod(torch.arange(24), torch.arange(24)).T.reshape(1, 2, 24, 24).half()
    descriptors, described = module.predict((crops, points))
    border = patch_size // 2
    for row, column in [(0, 0), (1, 4), (-1, -1), (3, -2)]:
        y, x = (4 * described[0, :, row, column] + 2).int().tolist()
        patch = normalise(crops[..., y - border : y + border + 1, x - border : x + border + 1])
        assert patch.shape == (1, 3, patch_size, patch_size)
        expected = module.teacher(patch)[..., 0, 0]
        torch.testing.assert_close(descriptors[..., row, column], expected, rtol=1e-4, atol=1e-5)


class TestOrder:
    class Numbers:
        """Crops that hold their own number, and in the last column another value."""

        crops = 2

        def __len__(self):
            return 20

        def read(self, indices, dim):
            crops = torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)
            crops[:] = torch.tensor(indices)[:, None, None, None]
            crops[..., -1] = 255
            targets = torch.zeros(len(indices), dim, 2, 2, dtype=torch.float16)
            targets[..., -1] = 1
            return crops, targets

    def draw(self, numbers, seed=0, batch_size=4, **process):
        data = DistillationData(self.Numbers(), held_out=[0, 9], dim=3, batch_size=batch_size, seed=seed)
        batches = [data.draw(number, **process) for number in numbers]
        return torch.cat([crops for crops, _ in batches]), torch.cat([targets for _, targets in batches])

    def numbers(self, *args, **kwargs):
        return self.draw(*args, **kwargs)[0][:, 0, 0, 4].tolist()

    def test_each_crop_is_drawn_once_before_any_is_drawn_again(self):
        for epoch in range(3):
            numbers = self.numbers(range(4 * epoch, 4 * epoch + 4))
            assert sorted(numbers) == list(range(2, 18))
        assert self.numbers(range(4)) != self.numbers(range(4, 8))

    def test_no_held_out_crop_is_drawn(self):
        data = DistillationData(self.Numbers(), held_out=[0, 9], dim=3)
        assert data.held_out == [0, 1, 18, 19]
        assert set(data.train).isdisjoint(data.held_out)

    def test_a_batch_follows_from_seed_and_number(self):
        assert self.numbers([7]) == self.numbers(range(8))[-4:]
        assert self.numbers([7], seed=1) != self.numbers([7])

    def test_crops_and_targets_are_flipped_together(self):
        crops, targets = self.draw(range(40))
        flipped = crops[:, 0, 0, 0] == 255
        assert torch.equal(targets[:, 0, 0, 0] == 1, flipped)
        assert 0.3 < flipped.float().mean() < 0.7

    def test_two_processes_draw_the_parts_of_one_batch(self):
        parts = [self.draw([3], batch_size=2, rank=rank, world_size=2) for rank in range(2)]
        for values, expected in zip(zip(*parts, strict=True), self.draw([3]), strict=True):
            assert torch.equal(torch.cat(values), expected)

    def test_fewer_crops_than_a_batch_are_repeated(self):
        numbers = self.numbers([0], batch_size=32)
        np.testing.assert_array_equal(np.bincount(numbers)[2:], 2)
