import pytest
import torch

from anomalib_students.model.photometric import COLOUR, GAIN, NOISE, OFFSET, PhotometricJitter


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_strength_zero_returns_the_images_themselves():
    images = torch.randn(2, 3, 4, 5)
    assert PhotometricJitter(0.0)(images) is images


def test_flat_images_stay_flat_but_for_noise_and_shift_within_the_ranges():
    images = torch.randn(64, 3, 1, 1).expand(-1, -1, 40, 40)
    shift = PhotometricJitter(1.0)(images, seeded()) - images
    # The noise averages out: 40 x 40 pixels.
    of_channels = shift.mean(dim=(2, 3))
    spread = images[..., 0, 0] - images[..., 0, 0].mean(dim=1, keepdim=True)
    largest = OFFSET + COLOUR + GAIN * spread.abs() + 5 * NOISE / 40
    assert (of_channels.abs() <= largest).all()
    assert of_channels.abs().max() > 0.8 * OFFSET
    assert (shift - of_channels[..., None, None]).std() < NOISE


def test_each_image_is_changed_in_its_own_way():
    image = torch.randn(1, 3, 8, 8)
    first, second = PhotometricJitter(1.0)(image.expand(2, -1, -1, -1), seeded())
    assert (first - second).abs().mean() > 0.01


def test_contrast_changes_around_the_mean_of_the_image(monkeypatch):
    for name in ("OFFSET", "COLOUR", "NOISE"):
        monkeypatch.setattr(f"anomalib_students.model.photometric.{name}", 0.0)
    images = torch.randn(32, 3, 9, 9, dtype=torch.float64)
    changed = PhotometricJitter(1.0)(images, seeded())
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3), keepdim=True), mean)
    gains = ((changed - mean) / (images - mean)).flatten(1)
    torch.testing.assert_close(gains, gains[:, :1].expand_as(gains), rtol=1e-6, atol=0)
    assert ((gains - 1).abs() <= GAIN).all()


def test_a_seed_gives_the_same_change_and_half_the_strength_half_of_it(monkeypatch):
    monkeypatch.setattr("anomalib_students.model.photometric.NOISE", 0.0)
    images = torch.randn(3, 3, 6, 6)
    whole = PhotometricJitter(1.0)(images, seeded(7)) - images
    assert torch.equal(PhotometricJitter(1.0)(images, seeded(7)) - images, whole)
    torch.testing.assert_close(PhotometricJitter(0.5)(images, seeded(7)) - images, whole / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_one_clear_error(strength):
    with pytest.raises(ValueError, match="light_jitter"):
        PhotometricJitter(strength)
