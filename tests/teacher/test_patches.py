"""Patches against images that are zoomed as a whole in double precision, and then cropped."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.teacher import patches
from anomalib_students.teacher.images import ImageStore
from anomalib_students.teacher.patches import Crops, PatchSampler, cut_patches


def make_image(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(256, size=(3, height, width), dtype=np.uint8))


def plain(value, height=20, width=24):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def is_grey(patch):
    return bool((patch - patch[:1]).abs().max() < 1e-6)


@pytest.fixture
def images():
    return ImageStore.from_images([make_image(60, 80), make_image(50, 40, seed=1), make_image(70, 70, seed=2)])


@pytest.fixture
def crops(monkeypatch):
    """What is cut for each batch: the places of the anchors, and of positives and negatives if there are any."""
    recorded = []

    def record(images, crops, patch_size):
        recorded.append(crops)
        return cut_patches(images, crops, patch_size)

    monkeypatch.setattr(patches, "cut_patches", record)
    return recorded


class TestCutPatches:
    @pytest.mark.parametrize("patch_size", [17, 33, 65])
    @pytest.mark.parametrize(("height", "width"), [(256, 256), (90, 300), (31, 20), (200, 1), (1, 1)])
    def test_a_patch_is_a_crop_of_the_zoomed_image(self, height, width, patch_size):
        """In all corners and in the middle, at the ends of the range of zooms, in one batch."""
        image = make_image(height, width)
        places = []
        for zoom in (4 * patch_size, 7 * patch_size + 3, 16 * patch_size):
            last = zoom - patch_size
            places += [
                (0, zoom, top, left) for top, left in ((0, 0), (0, last), (last, 0), (last, last), (last // 3, 1))
            ]

        cut = cut_patches(ImageStore.from_images([image]), Crops(*np.array(places).T), patch_size)
        assert cut.shape == (15, 3, patch_size, patch_size)
        for patch, (_, zoom, top, left) in zip(cut, places, strict=True):
            zoomed = transforms.resize(image.double() / 255, [zoom, zoom], antialias=True)
            expected = zoomed[:, top : top + patch_size, left : left + patch_size]
            # Single precision at positions of up to 300 pixels.
            torch.testing.assert_close(patch.double(), expected, rtol=0, atol=2e-5)

    def test_patches_of_several_images_come_from_their_own(self):
        store = ImageStore.from_images([plain(51), plain(102, 30, 9), plain(204, 8, 50)])
        crops = Crops(np.array([2, 0, 1, 2]), np.full(4, 100), np.array([0, 5, 83, 40]), np.array([83, 0, 2, 40]))
        values = cut_patches(store, crops, patch_size=17).flatten(1)
        expected = torch.tensor([0.8, 0.2, 0.4, 0.8])[:, None].expand_as(values)
        torch.testing.assert_close(values, expected)


class TestPatches:
    def test_a_batch_is_of_patches_with_values_up_to_one(self, images):
        batch = PatchSampler(images, patch_size=17, batch_size=5, seed=0).draw(0)
        assert batch.shape == (1, 5, 3, 17, 17)
        assert batch.dtype == torch.float32
        assert 0 <= batch.min() < 0.3
        assert 0.7 < batch.max() <= 1

    def test_the_zoomed_side_is_uniform_between_4_and_16_patch_sides(self, images, crops):
        PatchSampler(images, 17, 5000, seed=0).draw(0)
        (drawn,) = crops
        assert drawn.zoom.min() == 4 * 17
        assert drawn.zoom.max() == 16 * 17
        np.testing.assert_allclose(np.quantile(drawn.zoom / 17, [0.25, 0.5, 0.75]), [7, 10, 13], atol=0.25)

    def test_a_patch_lies_anywhere_in_the_zoomed_image(self, images, crops):
        PatchSampler(images, 17, 5000, seed=0).draw(0)
        (drawn,) = crops
        for start in (drawn.top, drawn.left):
            assert start.min() >= 0
            assert (start + 17 <= drawn.zoom).all()
            place = start / (drawn.zoom - 17)
            np.testing.assert_allclose(np.quantile(place, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.03)
        assert abs(np.corrcoef(drawn.top / drawn.zoom, drawn.left / drawn.zoom)[0, 1]) < 0.05

    def test_patches_come_from_all_images_alike(self, images, crops):
        PatchSampler(images, 17, 3000, seed=0).draw(0)
        assert min(np.bincount(crops[0].image, minlength=3)) > 900

    def test_one_patch_in_ten_is_grey(self, images):
        (batch,) = PatchSampler(images, 17, 2000, seed=0).draw(0)
        assert 160 < sum(map(is_grey, batch)) < 240


class TestTriplets:
    def draw(self, images, n, patch_size=17):
        return PatchSampler(images, patch_size, n, seed=0, triplets=True).draw(0)

    def test_anchors_are_the_patches_that_are_drawn_without_triplets(self, images):
        triplets = self.draw(images, 6)
        assert triplets.shape == (3, 6, 3, 17, 17)
        assert torch.equal(triplets[:1], PatchSampler(images, 17, 6, seed=0).draw(0))

    @pytest.mark.parametrize(("patch_size", "reach"), [(17, 4), (33, 8), (65, 16)])
    def test_a_positive_is_translated_by_up_to_a_quarter_of_the_patch(self, images, crops, patch_size, reach):
        self.draw(images, 2000, patch_size)
        anchors, positives, _ = crops
        assert (positives.image == anchors.image).all()
        assert (positives.zoom == anchors.zoom).all()
        for start, moved in ((anchors.top, positives.top), (anchors.left, positives.left)):
            assert moved.min() >= 0
            assert (moved + patch_size <= anchors.zoom).all()
            inside = (start >= reach) & (start + patch_size + reach <= anchors.zoom)
            shifts = (moved - start)[inside]
            assert set(shifts) == set(range(-reach, reach + 1))
            np.testing.assert_allclose(shifts.mean(), 0, atol=4 * reach / np.sqrt(3 * len(shifts)))

    def test_a_negative_comes_from_a_different_image(self, images, crops):
        self.draw(images, 3000)
        anchors, _, negatives = crops
        pairs, counts = np.unique(np.stack([anchors.image, negatives.image]), axis=1, return_counts=True)
        assert [tuple(pair) for pair in pairs.T] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
        assert counts.min() > 400
        assert (negatives.zoom != anchors.zoom).mean() > 0.9

    def test_the_noise_of_a_positive_has_a_standard_deviation_of_a_tenth(self):
        store = ImageStore.from_images([plain(128), plain(128)])
        _, positives, _ = self.draw(store, 1000)
        coloured = torch.stack([positive for positive in positives if not is_grey(positive)])
        assert len(coloured) > 800
        noise = coloured - coloured.mean(dim=(1, 2, 3), keepdim=True)
        assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
        correlations = torch.corrcoef(noise.transpose(0, 1).flatten(1))
        assert (correlations - torch.eye(3)).abs().max() < 0.01

    def test_the_luminance_of_a_positive_differs(self):
        store = ImageStore.from_images([plain(128), plain(128)])
        anchors, positives, negatives = self.draw(store, 1000)
        torch.testing.assert_close(anchors, torch.full_like(anchors, 128 / 255), rtol=0, atol=1e-3)
        torch.testing.assert_close(negatives, anchors, rtol=0, atol=1e-3)
        factors = positives.mean(dim=(1, 2, 3)) / anchors.mean(dim=(1, 2, 3))
        np.testing.assert_allclose(np.quantile(factors, [0, 0.25, 0.5, 0.75, 1]), [0.8, 0.9, 1, 1.1, 1.2], atol=0.03)

    def test_one_triplet_in_ten_is_grey_as_a_whole(self, images):
        grey = torch.tensor([[is_grey(patch) for patch in patches] for patches in self.draw(images, 1000)])
        assert torch.equal(grey[0], grey[1])
        assert torch.equal(grey[0], grey[2])
        assert 70 < int(grey[0].sum()) < 130

    def test_a_single_image_is_refused(self):
        with pytest.raises(ValueError, match="Triplets need at least 2 images"):
            PatchSampler(ImageStore.from_images([plain(0)]), 17, 4, seed=0, triplets=True)


@pytest.mark.parametrize("triplets", [False, True])
class TestReproducibility:
    def test_a_batch_depends_on_seed_and_number_alone(self, images, triplets):
        def draw(seed, number):
            return PatchSampler(images, 17, 4, seed, triplets).draw(number)

        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        first = draw(1, 2)
        torch.manual_seed(2)
        np.random.seed(2)  # noqa: NPY002
        assert torch.equal(first, draw(1, 2))
        assert not torch.equal(first, draw(1, 3))
        assert not torch.equal(first, draw(2, 2))

    def test_drawing_leaves_the_global_random_numbers_alone(self, images, triplets):
        before = torch.get_rng_state()
        PatchSampler(images, 17, 4, 0, triplets).draw(0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_several_processes_draw_the_parts_of_one_batch(self, images, triplets):
        whole = PatchSampler(images, 17, 6, 0, triplets).draw(5)
        parts = [PatchSampler(images, 17, 2, 0, triplets, rank=rank, world_size=3).draw(5) for rank in range(3)]
        # How many pixels a batch needs decides the order of additions.
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-6)
