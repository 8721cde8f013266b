"""The parts of images that training steps see."""

from collections import Counter
from itertools import product

import pytest
import torch
from allpairspy import AllPairs

from anomalib_students.model import phase
from anomalib_students.model.phase import sample_phase
from anomalib_students.networks.dense import dense_descriptors
from anomalib_students.networks.patch_network import PatchNetwork

from ..networks.test_dense import PATCH_SIZES, make_images, make_network


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
def test_a_sampled_part_has_the_descriptors_of_the_dense_map(size, patch_size, phase_side, monkeypatch):
    monkeypatch.setattr(phase, "PHASE_SIDE", phase_side)
    monkeypatch.setattr(phase, "SPREAD_SIDE", phase_side)
    network = make_network(patch_size)
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
    ("patch_size", "phase_side", "parts"),
    # Tiles in each direction, and phases in each tile.
    [(17, 8, 3 * 6), (33, 4, 2 * 3 * 16), (33, 32, 16), (65, 3, 2 * 64), (65, 32, 64)],
)
def test_sampled_parts_are_equally_likely_and_make_up_the_image(patch_size, phase_side, parts, monkeypatch):
    monkeypatch.setattr(phase, "PHASE_SIDE", phase_side)
    network = PatchNetwork(patch_size, 1)
    height, width = 24, 48  # Divided by all tiles and strides.
    images = coordinates(height, width)
    counts = Counter()
    for _ in range(30 * parts):
        rows, columns = drawn_pixels(network, sample_phase(network, images))
        counts[tuple(rows), tuple(columns)] += 1

    # Each part is drawn 30 times on average, with a deviation of 5.5.
    assert len(counts) == parts
    assert all(abs(count - 30) < 25 for count in counts.values())
    partition = sorted(pixel for rows, columns in counts for pixel in product(rows, columns))
    assert partition == sorted(product(range(height), range(width)))


@pytest.mark.parametrize("phase_side", [1, 2, 32])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_every_pixel_can_be_drawn_where_the_sides_do_not_divide(patch_size, phase_side, monkeypatch):
    monkeypatch.setattr(phase, "PHASE_SIDE", phase_side)
    monkeypatch.setattr(phase, "SPREAD_SIDE", phase_side)
    network = PatchNetwork(patch_size, 1)
    images = coordinates(10, 7)
    drawn = set()
    for _ in range(1000):
        drawn |= set(product(*drawn_pixels(network, sample_phase(network, images))))
    assert drawn == set(product(range(10), range(7)))


@pytest.mark.usefixtures("narrow_networks")
def test_patches_of_a_network_without_poolings_are_of_many_places():
    network = make_network(17)
    images = make_images(2, 3, 64, 72)
    dense = dense_descriptors(network, images)
    parts = sample_phase(network, coordinates(64, 72), torch.Generator().manual_seed(0))
    descriptors = network(sample_phase(network, images, torch.Generator().manual_seed(0)))
    places = [drawn_pixels(network, part[None]) for part in parts]
    for number, (rows, columns) in enumerate(places):
        assert len(rows) == len(columns) == 8
        expected = dense[:, :, rows][..., columns]
        torch.testing.assert_close(descriptors[2 * number : 2 * number + 2], expected, rtol=0, atol=1e-12)
    # As many patches as of other networks, in 16 of 72 tiles, of which about 14 differ.
    assert len(places) == 16
    assert len({(rows[0], columns[0]) for rows, columns in places}) > 10


@pytest.mark.usefixtures("narrow_networks")
def test_no_more_parts_than_the_image_has():
    parts = sample_phase(make_network(17), make_images(1, 3, 16, 9))
    assert parts.shape == (4, 3, 8 + 16, 5 + 16)
