import pytest
import torch

from anomalib_students.model.synthetic_defects import LARGEST_COVER, SyntheticDefects


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def paint(images, share=1.0, seed=0):
    return SyntheticDefects(share)(images, seeded(seed))


def test_a_share_of_zero_returns_the_images_themselves():
    images = torch.randn(2, 3, 24, 24)
    assert paint(images, share=0.0) is images


def test_the_share_of_images_is_painted_and_the_others_are_as_they_were():
    images = torch.randn(1, 3, 24, 24).expand(400, -1, -1, -1)
    is_painted = (paint(images, share=0.25) != images).flatten(1).any(dim=1)
    # Three standard deviations of a binomial distribution; lines now and then miss the image.
    assert 0.25 - 3 * 0.022 - 0.05 < is_painted.float().mean() < 0.25 + 3 * 0.022


def test_defects_are_small_visible_and_of_many_sizes():
    images = torch.zeros(200, 3, 128, 128) + torch.randn(3, 1, 1)
    changed = (paint(images) != images).any(dim=1)
    cover = changed.float().mean(dim=(1, 2))
    assert cover.max() <= LARGEST_COVER + 0.01
    assert 0.01 < cover.mean() < 0.1
    assert cover.std() > 0.01
    # What is painted is another colour or texture by more than the noise of a camera.
    difference = (paint(images) - images).abs().amax(dim=1)
    assert (difference[changed] > 0.05).float().mean() > 0.9


def test_a_seed_gives_the_same_defects_and_each_image_its_own():
    image = torch.randn(1, 3, 32, 32).expand(2, -1, -1, -1)
    painted = paint(image, seed=3)
    assert torch.equal(paint(image, seed=3), painted)
    assert not torch.equal(painted[0], painted[1])


def test_the_images_themselves_are_not_changed():
    images = torch.randn(4, 3, 32, 32)
    before = images.clone()
    paint(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("side", [(5, 5), (17, 40), (200, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_and_long_images_are_painted_too(side, dtype):
    painted = paint(torch.randn(50, 3, *side, dtype=dtype))
    assert painted.dtype == dtype
    assert painted.isfinite().all()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_one_clear_error(share):
    with pytest.raises(ValueError, match="synthetic_defects"):
        SyntheticDefects(share)
