"""Patches of images, and the scores of the images that they make up."""

import pytest
import torch
from allpairspy import AllPairs

from anomalib_students.model.describers import PatchDescriber, PixelDescriber, zoom
from anomalib_students.networks.dense import OUTPUT_STRIDES, dense_descriptors

from ..networks.test_dense import PATCH_SIZES, make_images, make_network


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize(
    ("size", "max_tile", "patch_size", "output_stride"),
    [
        (*tiles, *network)
        for tiles, *network in AllPairs(
            [[((1, 1), 8), ((9, 30), 8), ((37, 20), 16), ((40, 41), 19)], PATCH_SIZES, OUTPUT_STRIDES]
        )
    ],
)
def test_tiles_have_the_descriptors_of_the_image(size, max_tile, patch_size, output_stride):
    network = make_network(patch_size)
    images = make_images(2, 3, *size)
    described = dense_descriptors(network, images, output_stride)
    filled = torch.full_like(described, torch.nan)
    for tile in PixelDescriber(max_tile, output_stride).patches(network, images):
        assert output_stride * max(side.stop - side.start for side in (tile.rows, tile.columns)) <= max_tile
        part = filled[tile.images, :, tile.rows, tile.columns]
        assert part.isnan().all()
        part.copy_(tile.describe(network))
    torch.testing.assert_close(filled, described, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("size", [(33, 33), (20, 41)])
def test_an_image_that_is_one_patch_has_its_score(size):
    network = make_network(33)
    images = make_images(5, 3, *size)
    scores = PatchDescriber(max_tile=50).score(network, images, lambda part: part.describe(network).sum(dim=1))
    torch.testing.assert_close(scores, network(zoom(images, 33)).sum(dim=1, keepdim=True))
    assert scores.shape == (5, 1, 1, 1)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("describer", [PatchDescriber(max_tile=40), PixelDescriber(max_tile=40, output_stride=4)])
def test_images_of_a_batch_are_described_together_up_to_the_size_of_a_tile(describer):
    network = make_network(33)
    parts = list(describer.patches(network, make_images(5, 3, 25, 30)))
    assert [part.images for part in parts] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert [len(part.describe(network)) for part in parts] == [2, 2, 1]
