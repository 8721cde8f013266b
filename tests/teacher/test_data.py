"""Patches and crops against images that are resized as a whole, and then cropped."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from anomalib_students.teacher import data
from anomalib_students.teacher.data import (
    Crops,
    ImageStore,
    PatchSampler,
    cut_patches,
    find_images,
    load_crops,
    load_images,
)


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

    monkeypatch.setattr(data, "cut_patches", record)
    return recorded


class TestImages:
    def test_images_are_found_in_all_folders_and_sorted(self, tmp_path):
        names = ["b.png", "a/c.JPG", "a/b/d.tiff", "z.webp", "z.gif", "photos.jpg/a.png"]
        for name in [*names, "notes.txt", "a/mask.npy", ".ipynb_checkpoints/b.png", "._b.png"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert find_images(tmp_path) == sorted(tmp_path / name for name in names)

    @pytest.mark.parametrize(
        ("folder", "message"),
        [("missing", r"missing does not exist"), ("a.png", r"does not exist"), (".", "no images")],
    )
    def test_a_folder_without_images_is_told(self, folder, message, tmp_path):
        if folder == "a.png":
            (tmp_path / folder).touch()
        with pytest.raises(FileNotFoundError, match=message):
            find_images(tmp_path / folder)

    def test_images_keep_their_order_and_values_in_rgb(self, tmp_path):
        expected = make_image(20, 30)
        pictures = {
            "b": Image.fromarray(expected.permute(1, 2, 0).numpy()),
            "a": Image.fromarray(expected[0].numpy()),
        }
        for name, picture in pictures.items():
            picture.save(tmp_path / f"{name}.png")
        colour, grey = load_images([tmp_path / "b.png", tmp_path / "a.png"], side=256)
        assert torch.equal(colour, expected)
        assert torch.equal(grey, expected[0].expand(3, -1, -1))

    @pytest.mark.parametrize(("size", "stored"), [((300, 600), (256, 512)), ((1024, 512), (512, 256))])
    def test_a_large_image_is_reduced(self, tmp_path, size, stored):
        Image.new("RGB", size[::-1]).save(tmp_path / "a.png")
        (image,) = load_images([tmp_path / "a.png"], side=256)
        assert image.shape == (3, *stored)

    def test_every_pixel_of_every_image_is_found_in_a_store(self):
        images = [make_image(4, 7), 255 - make_image(6, 2), make_image(1, 1)]
        store = ImageStore.from_images(images)
        assert len(store) == 3
        for image, height, width, offset in zip(images, store.heights, store.widths, store.offsets, strict=True):
            pixels = store.pixels[offset : offset + height * width]
            assert torch.equal(pixels.T.reshape(3, height, width), image)


class TestCutPatches:
    @pytest.mark.parametrize("patch_size", [17, 65])
    @pytest.mark.parametrize(("height", "width"), [(256, 256), (90, 300), (31, 20), (200, 1), (1, 1)])
    def test_a_patch_is_a_crop_of_the_resized_image(self, height, width, patch_size):
        """In all corners and in the middle, at the ends of the range of sides, in one batch."""
        image = make_image(height, width)
        places = []
        for side in (4 * patch_size, 7 * patch_size + 3, 16 * patch_size):
            last = side - patch_size
            corners = ((0, 0), (0, last), (last, 0), (last, last), (last // 3, 1))
            places += [(0, side, top, left) for top, left in corners]

        cut = cut_patches(ImageStore.from_images([image]), Crops(*np.array(places).T), patch_size)
        assert cut.shape == (15, 3, patch_size, patch_size)
        for patch, (_, side, top, left) in zip(cut, places, strict=True):
            resized = transforms.resize(image.double() / 255, [side, side], antialias=True)
            expected = resized[:, top : top + patch_size, left : left + patch_size]
            # Single precision at positions of up to 300 pixels.
            torch.testing.assert_close(patch.double(), expected, rtol=0, atol=2e-5)

    def test_patches_of_several_images_come_from_their_own(self):
        store = ImageStore.from_images([plain(51), plain(102, 30, 9), plain(204, 8, 50)])
        crops = Crops(np.array([2, 0, 1, 2]), np.full(4, 100), np.array([0, 5, 83, 40]), np.array([83, 0, 2, 40]))
        values = cut_patches(store, crops, patch_size=17).flatten(1)
        expected = torch.tensor([0.8, 0.2, 0.4, 0.8])[:, None].expand_as(values)
        torch.testing.assert_close(values, expected)


class TestPatches:
    def test_a_patch_lies_anywhere_in_an_image_of_any_side(self, images, crops):
        PatchSampler(images, 17, 5000, seed=0).draw(0)
        (drawn,) = crops
        assert (drawn.side.min(), drawn.side.max()) == (4 * 17, 16 * 17)
        np.testing.assert_allclose(np.quantile(drawn.side / 17, [0.25, 0.5, 0.75]), [7, 10, 13], atol=0.25)
        for start in (drawn.top, drawn.left):
            place = start / (drawn.side - 17)
            np.testing.assert_allclose(np.quantile(place, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.03)
        assert abs(np.corrcoef(drawn.top / drawn.side, drawn.left / drawn.side)[0, 1]) < 0.05
        assert min(np.bincount(drawn.image, minlength=3)) > 1500

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

    @pytest.mark.parametrize(("patch_size", "reach"), [(17, 4), (65, 16)])
    def test_a_positive_is_translated_by_up_to_a_quarter_of_the_patch(self, images, crops, patch_size, reach):
        self.draw(images, 2000, patch_size)
        anchors, positives, _ = crops
        assert (positives.image == anchors.image).all()
        assert (positives.side == anchors.side).all()
        for start, moved in ((anchors.top, positives.top), (anchors.left, positives.left)):
            assert moved.min() >= 0
            assert (moved + patch_size <= anchors.side).all()
            shifts = (moved - start)[(start >= reach) & (start + patch_size + reach <= anchors.side)]
            assert set(shifts) == set(range(-reach, reach + 1))
            np.testing.assert_allclose(shifts.mean(), 0, atol=4 * reach / np.sqrt(3 * len(shifts)))

    def test_a_negative_comes_from_a_different_image(self, images, crops):
        self.draw(images, 3000)
        anchors, _, negatives = crops
        pairs, counts = np.unique(np.stack([anchors.image, negatives.image]), axis=1, return_counts=True)
        assert [tuple(pair) for pair in pairs.T] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
        assert counts.min() > 400
        assert (negatives.side != anchors.side).mean() > 0.9

    def test_a_positive_has_noise_and_another_luminance(self):
        anchors, positives, negatives = self.draw(ImageStore.from_images([plain(128), plain(128)]), 1000)
        torch.testing.assert_close(anchors, torch.full_like(anchors, 128 / 255), rtol=0, atol=1e-3)
        torch.testing.assert_close(negatives, anchors, rtol=0, atol=1e-3)
        factors = positives.mean(dim=(1, 2, 3)) / anchors.mean(dim=(1, 2, 3))
        np.testing.assert_allclose(np.quantile(factors, [0, 0.25, 0.5, 0.75, 1]), [0.8, 0.9, 1, 1.1, 1.2], atol=0.03)
        coloured = torch.stack([positive for positive in positives if not is_grey(positive)])
        noise = coloured - coloured.mean(dim=(1, 2, 3), keepdim=True)
        assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
        correlations = torch.corrcoef(noise.transpose(0, 1).flatten(1))
        assert (correlations - torch.eye(3)).abs().max() < 0.01

    def test_one_triplet_in_ten_is_grey_as_a_whole(self, images):
        grey = torch.tensor([[is_grey(patch) for patch in patches] for patches in self.draw(images, 1000)])
        assert torch.equal(grey[0], grey[1])
        assert torch.equal(grey[0], grey[2])
        assert 70 < int(grey[0].sum()) < 130


@pytest.mark.parametrize("triplets", [False, True])
class TestReproducibility:
    def test_a_batch_depends_only_on_seed_and_number(self, images, triplets):
        def draw(seed, number):
            return PatchSampler(images, 17, 4, seed, triplets).draw(number)

        before = torch.get_rng_state()
        first = draw(1, 2)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(first, draw(1, 2))
        assert not torch.equal(first, draw(1, 3))
        assert not torch.equal(first, draw(2, 2))

    def test_several_processes_draw_the_shares_of_one_batch(self, images, triplets):
        whole = PatchSampler(images, 17, 6, 0, triplets).draw(5)
        shares = [PatchSampler(images, 17, 2, 0, triplets, rank=rank, world_size=3).draw(5) for rank in range(3)]
        # How many pixels a batch needs decides the order of additions.
        torch.testing.assert_close(torch.cat(shares, dim=1), whole, rtol=0, atol=1e-6)


class TestLoadCrops:
    @pytest.fixture
    def photograph(self, tmp_path):
        """A picture whose red and green values are its columns and rows, and which has no two alike in blue."""
        rows, columns = np.mgrid[:100, :160].astype(np.uint8)
        Image.fromarray(np.stack([columns, rows, rows ^ columns], axis=-1)).save(tmp_path / "a.png")
        return tmp_path / "a.png"

    def test_the_first_is_the_largest_square_and_the_others_are_at_least_three_fifths(self, photograph, monkeypatch):
        for name in ("GREY_CROP", "LIGHT", "FLIP"):
            monkeypatch.setattr(data, f"{name}_PROBABILITY", 0)
        crop = load_crops([photograph], crops=1, side=100, seed=0)[0, 0].numpy()
        np.testing.assert_array_equal(crop[0], np.broadcast_to(crop[0, 0, 0] + np.arange(100), (100, 100)))
        np.testing.assert_array_equal(crop[1], np.broadcast_to(np.arange(100)[:, None], (100, 100)))
        sides = []
        for crop in load_crops([photograph], crops=50, side=64, seed=0)[0, 1:].int().numpy():
            # From the middle of the first pixel to that of the last.
            width, height = (64 / 63 * np.ptp(crop[channel]) for channel in (0, 1))
            assert width == pytest.approx(height, abs=2)
            sides.append(width)
        assert (min(sides), max(sides)) == pytest.approx((60, 99), abs=5)

    def test_they_follow_from_photograph_number_and_seed(self, photograph):
        first, second = load_crops([photograph] * 2, crops=4, side=32, seed=0)
        assert torch.equal(load_crops([photograph], crops=2, side=32, seed=0)[0], first[:2])
        assert not torch.equal(first, second)
        assert not torch.equal(load_crops([photograph], crops=4, side=32, seed=1)[0], first)
        assert len(first.unique(dim=0)) == 4

    def test_some_are_grey_and_some_are_flipped(self, photograph):
        many = load_crops([photograph] * 100, crops=2, side=16, seed=0).flatten(0, 1).int().numpy()
        grey = (many[:, 0] == many[:, 1]).all((1, 2))
        assert 0.1 < grey.mean() < 0.3
        flipped = many[~grey, 0, 8, 0] > many[~grey, 0, 8, -1]
        assert 0.35 < flipped.mean() < 0.65

    @pytest.mark.parametrize("size", [(1, 1), (3, 200)])
    def test_a_tiny_photograph_is_enlarged(self, size, tmp_path):
        Image.new("L", size, 200).save(tmp_path / "a.png")
        assert load_crops([tmp_path / "a.png"], crops=3, side=16, seed=0).shape == (1, 3, 3, 16, 16)
