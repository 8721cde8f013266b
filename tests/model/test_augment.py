"""What training steps see: samples of patches, in random light, with synthetic defects."""

from collections import Counter
from itertools import product

import pytest
import torch
from allpairspy import AllPairs
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.v2.functional import normalize

from anomalib_students.model import augment
from anomalib_students.model.augment import (
    BLACK,
    COLOUR,
    GAIN,
    LARGEST_COVER,
    NOISE,
    OFFSET,
    WHITE,
    jitter_light,
    paint_defects,
    sample_phase,
    training_tiles,
)
from anomalib_students.networks.dense import dense_descriptors, pad_border
from anomalib_students.networks.patch_network import PatchNetwork

from ..networks.test_dense import PATCH_SIZES, make_images, make_network


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(height, width):
    """Images whose three channels are row, column and zero, so that a crop shows its own position."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).double().unsqueeze(0)


def drawn_pixels(network, crop):
    """Rows and columns of the pixels in whose patches a crop of :func:`coordinates` consists."""
    border, stride = network.patch_size // 2, network.stride
    rows, columns = crop[0, 0, :, 0], crop[0, 1, 0, :]
    return tuple(side[border : len(side) - border : stride].long().tolist() for side in (rows, columns))


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize(
    ("size", "patch_size", "phase_side"),
    list(AllPairs([[(1, 1), (2, 5), (11, 8), (16, 21)], PATCH_SIZES, [1, 3, 32]])),
)
def test_a_sample_has_the_descriptors_of_the_dense_map(size, patch_size, phase_side, monkeypatch):
    monkeypatch.setattr(augment, "PHASE_SIDE", phase_side)
    monkeypatch.setattr(augment, "SPREAD_SIDE", phase_side)
    network = make_network(PatchNetwork, patch_size)
    images = make_images(2, 3, *size)
    dense = dense_descriptors(network, images)
    for seed in range(6):
        torch.manual_seed(seed)
        rows, columns = drawn_pixels(network, sample_phase(network, coordinates(*size)))
        torch.manual_seed(seed)
        descriptors = network(sample_phase(network, images))
        torch.testing.assert_close(descriptors, dense[:, :, rows][..., columns], rtol=0, atol=1e-12)
        assert max(len(rows), len(columns)) <= phase_side


@pytest.mark.parametrize(
    ("patch_size", "phase_side", "samples"),
    # Tiles in each direction, and phases in each tile.
    [(17, 8, 3 * 6), (33, 4, 2 * 3 * 16), (33, 32, 16), (65, 3, 2 * 64), (65, 32, 64)],
)
def test_samples_are_equally_likely_and_make_up_the_image(patch_size, phase_side, samples, monkeypatch):
    monkeypatch.setattr(augment, "PHASE_SIDE", phase_side)
    network = PatchNetwork(patch_size, 1)
    height, width = 24, 48  # Divided by all tiles and strides.
    images = coordinates(height, width)
    counts = Counter()
    for _ in range(30 * samples):
        rows, columns = drawn_pixels(network, sample_phase(network, images))
        counts[tuple(rows), tuple(columns)] += 1

    # Each is drawn 30 times on average, with a deviation of 5.5.
    assert len(counts) == samples
    assert all(abs(count - 30) < 25 for count in counts.values())
    partition = sorted(pixel for rows, columns in counts for pixel in product(rows, columns))
    assert partition == sorted(product(range(height), range(width)))


@pytest.mark.parametrize("phase_side", [1, 2, 32])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_every_pixel_can_be_drawn_where_the_sides_do_not_divide(patch_size, phase_side, monkeypatch):
    monkeypatch.setattr(augment, "PHASE_SIDE", phase_side)
    monkeypatch.setattr(augment, "SPREAD_SIDE", phase_side)
    network = PatchNetwork(patch_size, 1)
    images = coordinates(10, 7)
    drawn = set()
    for _ in range(1000):
        drawn |= set(product(*drawn_pixels(network, sample_phase(network, images))))
    assert drawn == set(product(range(10), range(7)))


@pytest.mark.usefixtures("narrow_networks")
def test_patches_of_a_network_without_poolings_are_of_many_places():
    network = make_network(PatchNetwork, 17)
    images = make_images(2, 3, 64, 72)
    dense = dense_descriptors(network, images)
    crops = sample_phase(network, coordinates(64, 72), seeded())
    descriptors = network(sample_phase(network, images, seeded()))
    places = [drawn_pixels(network, crop[None]) for crop in crops]
    for number, (rows, columns) in enumerate(places):
        assert len(rows) == len(columns) == 8
        expected = dense[:, :, rows][..., columns]
        torch.testing.assert_close(descriptors[2 * number : 2 * number + 2], expected, rtol=0, atol=1e-12)
    # As many patches as of other networks, in 16 of 72 tiles, of which about 14 differ.
    assert len(places) == 16
    assert len({(rows[0], columns[0]) for rows, columns in places}) > 10


@pytest.mark.usefixtures("narrow_networks")
def test_no_more_tiles_than_the_image_has():
    crops = sample_phase(make_network(PatchNetwork, 17), make_images(1, 3, 16, 9))
    assert crops.shape == (4, 3, 8 + 16, 5 + 16)


@pytest.mark.parametrize("training_mode", ["phase", "dense"])
@pytest.mark.parametrize("defects", [0.0, 0.5])
def test_tiles_for_the_students_are_those_of_the_teacher_with_defects(training_mode, defects):
    network, images = PatchNetwork(33, 1), make_images(6, 3, 40, 40)
    tiles, painted, n_painted = training_tiles(network, images, training_mode, defects, seeded())
    generator = seeded()
    drawn = sample_phase(network, images, generator) if training_mode == "phase" else images
    with_defects = paint_defects(drawn, defects, generator)
    n_different = (with_defects != drawn).flatten(1).any(dim=1).float().mean()
    if training_mode == "dense":
        drawn, with_defects = pad_border(drawn, 33), pad_border(with_defects, 33)
    assert torch.equal(tiles, drawn)
    assert painted is None if defects == 0 else torch.equal(painted, with_defects)
    assert n_painted == pytest.approx(float(n_different))
    assert (0 < n_painted < 1) == (defects > 0)


def test_flat_images_stay_flat_but_for_noise_and_shift_within_the_ranges(monkeypatch):
    monkeypatch.setattr(augment, "EXPOSURE", 0.0)
    # Far from black and white.
    images = torch.randn(64, 3, 1, 1).clamp(-1, 1).expand(-1, -1, 40, 40)
    shift = jitter_light(images, 1.0, seeded()) - images
    # The noise averages out: 40 x 40 pixels.
    of_channels = shift.mean(dim=(2, 3))
    spread = images[..., 0, 0] - images[..., 0, 0].mean(dim=1, keepdim=True)
    largest = OFFSET + COLOUR + GAIN * spread.abs() + 5 * NOISE / 40
    assert (of_channels.abs() <= largest).all()
    assert of_channels.abs().max() > 0.8 * OFFSET
    assert (shift - of_channels[..., None, None]).std() < NOISE


def test_each_image_is_changed_in_its_own_way():
    image = torch.randn(1, 3, 8, 8)
    first, second = jitter_light(image.expand(2, -1, -1, -1), 1.0, seeded())
    assert (first - second).abs().mean() > 0.01


def test_contrast_changes_around_the_mean_of_the_image(monkeypatch):
    for name in ("OFFSET", "COLOUR", "EXPOSURE", "NOISE"):
        monkeypatch.setattr(augment, name, 0.0)
    images = torch.randn(32, 3, 9, 9, dtype=torch.float64).clamp(-1, 1)
    changed = jitter_light(images, 1.0, seeded())
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3), keepdim=True), mean)
    gains = ((changed - mean) / (images - mean)).flatten(1)
    torch.testing.assert_close(gains, gains[:, :1].expand_as(gains), rtol=1e-6, atol=0)
    assert ((gains - 1).abs() <= GAIN).all()


def test_exposure_multiplies_what_the_camera_records_until_it_saturates(monkeypatch):
    for name in ("GAIN", "OFFSET", "COLOUR", "NOISE"):
        monkeypatch.setattr(augment, name, 0.0)
    recorded = torch.rand(64, 3, 9, 9)
    images = normalize(recorded, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
    changed = jitter_light(images, 1.0, seeded())
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
    changed = jitter_light(images, 1.0, seeded())
    assert (changed >= BLACK).all()
    assert (changed <= WHITE).all()


def test_a_seed_gives_the_same_change_and_half_the_strength_half_of_it(monkeypatch):
    for name in ("EXPOSURE", "NOISE"):
        monkeypatch.setattr(augment, name, 0.0)
    images = torch.randn(3, 3, 6, 6).clamp(-1, 1)
    whole = jitter_light(images, 1.0, seeded(7)) - images
    assert torch.equal(jitter_light(images, 1.0, seeded(7)) - images, whole)
    torch.testing.assert_close(jitter_light(images, 0.5, seeded(7)) - images, whole / 2, rtol=1e-4, atol=1e-5)


def paint(images, fraction=1.0, seed=0):
    return paint_defects(images, fraction, seeded(seed))


def test_neither_defects_nor_light_jitter_return_the_images_themselves():
    images = torch.randn(2, 3, 24, 24)
    assert paint(images, fraction=0.0) is jitter_light(images, 0.0) is images


def test_the_fraction_of_images_is_painted_and_the_others_are_as_they_were():
    image = torch.randn(1, 3, 24, 24)
    # A copy: what is given is not changed.
    is_painted = (paint(image.repeat(400, 1, 1, 1), fraction=0.25) != image).flatten(1).any(dim=1)
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


@pytest.mark.parametrize("side", [(5, 5), (17, 40), (200, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_and_long_images_are_painted_too(side, dtype):
    painted = paint(torch.randn(50, 3, *side, dtype=dtype))
    assert painted.dtype == dtype
    assert painted.isfinite().all()
