import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.v2.functional import normalize

from anomalib_students.model.photometric import BLACK, COLOUR, GAIN, NOISE, OFFSET, WHITE, PhotometricJitter

MODULE = "anomalib_students.model.photometric"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_strength_zero_returns_the_images_themselves():
    images = torch.randn(2, 3, 4, 5)
    assert PhotometricJitter(0.0)(images) is images


def test_flat_images_stay_flat_but_for_noise_and_shift_within_the_ranges(monkeypatch):
    monkeypatch.setattr(f"{MODULE}.EXPOSURE", 0.0)
    # Far from black and white.
    images = torch.randn(64, 3, 1, 1).clamp(-1, 1).expand(-1, -1, 40, 40)
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
    for name in ("OFFSET", "COLOUR", "EXPOSURE", "NOISE"):
        monkeypatch.setattr(f"{MODULE}.{name}", 0.0)
    images = torch.randn(32, 3, 9, 9, dtype=torch.float64).clamp(-1, 1)
    changed = PhotometricJitter(1.0)(images, seeded())
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3), keepdim=True), mean)
    gains = ((changed - mean) / (images - mean)).flatten(1)
    torch.testing.assert_close(gains, gains[:, :1].expand_as(gains), rtol=1e-6, atol=0)
    assert ((gains - 1).abs() <= GAIN).all()


def test_exposure_multiplies_what_the_camera_records_until_it_saturates(monkeypatch):
    for name in ("GAIN", "OFFSET", "COLOUR", "NOISE"):
        monkeypatch.setattr(f"{MODULE}.{name}", 0.0)
    recorded = torch.rand(64, 3, 9, 9)
    images = normalize(recorded, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
    changed = PhotometricJitter(1.0)(images, seeded())
    # Pixels of 0.01 or less are all rounding error.
    ratios = ((changed - BLACK) / (images - BLACK))[recorded > 0.01]
    factors = torch.stack(
        [(image - BLACK).mean() / (before - BLACK).mean() for image, before in zip(changed, images, strict=True)]
    )
    assert 0.75 - 1e-3 <= ratios.min() < 0.8
    assert 1.2 < ratios.max() <= 1.25 + 1e-3
    for factor, image, before in zip(factors, changed, recorded, strict=True):
        if factor < 1:
            expected = normalize(before * factor, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
            torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)
    assert changed.amax(dim=(0, 2, 3)).equal(WHITE.flatten())


def test_noise_does_not_leave_the_range_of_a_camera():
    images = torch.stack([BLACK, WHITE]).expand(2, 3, 50, 50)
    changed = PhotometricJitter(1.0)(images, seeded())
    assert (changed >= BLACK).all()
    assert (changed <= WHITE).all()


def test_a_seed_gives_the_same_change_and_half_the_strength_half_of_it(monkeypatch):
    for name in ("EXPOSURE", "NOISE"):
        monkeypatch.setattr(f"{MODULE}.{name}", 0.0)
    images = torch.randn(3, 3, 6, 6).clamp(-1, 1)
    whole = PhotometricJitter(1.0)(images, seeded(7)) - images
    assert torch.equal(PhotometricJitter(1.0)(images, seeded(7)) - images, whole)
    torch.testing.assert_close(PhotometricJitter(0.5)(images, seeded(7)) - images, whole / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_one_clear_error(strength):
    with pytest.raises(ValueError, match="light_jitter"):
        PhotometricJitter(strength)
