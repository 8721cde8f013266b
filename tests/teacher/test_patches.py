from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_students.teacher import patches
from anomalib_students.teacher.patches import STORED_SIDE, PatchStream, draw_patch, find_images, load_images


def make_image(height, width):
    """A smooth image in colours, no two of its pixels alike."""
    rows, columns = torch.meshgrid(torch.linspace(0, 255, height), torch.linspace(0, 255, width), indexing="ij")
    return torch.stack([rows, columns, 255 - (rows + columns) / 2]).to(torch.uint8)


def is_grey(patch):
    return bool((patch == patch[:1]).all())


@pytest.fixture
def crops(monkeypatch):
    """Regions that patches are cropped from: (top, left, height, width) of each."""
    recorded = []
    resized_crop = patches.transforms.resized_crop

    def record(image, top, left, height, width, size, **options):
        recorded.append((top, left, height, width))
        assert options.get("antialias")
        return resized_crop(image, top, left, height, width, size, **options)

    monkeypatch.setattr(patches.transforms, "resized_crop", record)
    return recorded


class TestDrawPatch:
    @pytest.mark.parametrize("patch_size", [17, 33, 65])
    @pytest.mark.parametrize(("height", "width"), [(256, 256), (90, 300), (31, 20), (1, 1)])
    def test_a_patch_has_its_side_and_is_rgb_in_uint8(self, height, width, patch_size):
        patch = draw_patch(make_image(height, width), patch_size, np.random.default_rng(0))
        assert patch.shape == (3, patch_size, patch_size)
        assert patch.dtype == torch.uint8

    def test_the_same_generator_gives_the_same_patch(self):
        image = make_image(100, 120)
        first, second, other = (draw_patch(image, 17, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_values_stay_in_the_range_of_the_image(self):
        image = make_image(100, 120) // 4 + 100
        for seed in range(20):
            patch = draw_patch(image, 17, np.random.default_rng(seed))
            assert patch.min() >= 99
            assert patch.max() <= 164

    def test_the_image_is_zoomed_to_between_4_and_16_patch_sides(self, crops):
        """The region of a patch is p / z of the image in each direction, z being uniform in {4p, ..., 16p}."""
        image, random = make_image(2000, 1000), np.random.default_rng(0)
        for _ in range(1000):
            draw_patch(image, 17, random)
        _, _, heights, widths = np.array(crops).T
        zooms = 2000 / heights
        assert np.allclose(heights / widths, 2, atol=0.02)
        assert 4 <= zooms.min() < 4.1
        assert 15.9 < zooms.max() <= 16.1
        np.testing.assert_allclose(np.quantile(zooms, [0.25, 0.5, 0.75]), [7, 10, 13], atol=0.5)

    def test_the_crop_lies_anywhere_in_the_image(self, crops):
        image, random = make_image(2000, 1000), np.random.default_rng(0)
        for _ in range(1000):
            draw_patch(image, 17, random)
        tops, lefts, heights, widths = np.array(crops).T
        for start, extent, side in ((tops, heights, 2000), (lefts, widths, 1000)):
            assert start.min() >= 0
            assert (start + extent).max() <= side
            place = start / (side - extent)
            np.testing.assert_allclose(np.quantile(place, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.05)
        assert abs(np.corrcoef(tops / (2000 - heights), lefts / (1000 - widths))[0, 1]) < 0.1

    def test_one_patch_in_ten_is_grey(self):
        image, random = make_image(64, 64), np.random.default_rng(0)
        n_grey = sum(is_grey(draw_patch(image, 17, random)) for _ in range(2000))
        assert 160 < n_grey < 240


class TestPatchStream:
    @pytest.fixture
    def images(self):
        return [make_image(60, 80), make_image(50, 40).flip(-1), 255 - make_image(70, 70)]

    def test_batches_are_patches_in_uint8(self, images):
        for batch in islice(PatchStream(images, patch_size=17, batch_size=5, seed=0), 3):
            assert batch.shape == (5, 3, 17, 17)
            assert batch.dtype == torch.uint8

    def test_the_same_seed_gives_the_same_stream(self, images):
        first, second, other = (
            torch.stack(list(islice(PatchStream(images, 17, 4, seed=seed), 3))) for seed in (1, 1, 2)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_batches_of_a_stream_differ(self, images):
        first, second = islice(PatchStream(images, 17, 4, seed=0), 2)
        assert not torch.equal(first, second)

    def test_a_stream_can_be_read_again(self, images):
        stream = PatchStream(images, 17, 4, seed=0)
        assert torch.equal(next(iter(stream)), next(iter(stream)))

    @pytest.mark.parametrize("first_batch", [1, 4])
    def test_a_stream_restarted_at_a_batch_goes_on_as_the_original(self, images, first_batch):
        original = list(islice(PatchStream(images, 17, 4, seed=3), first_batch + 3))
        restarted = islice(PatchStream(images, 17, 4, seed=3, first_batch=first_batch), 3)
        for expected, batch in zip(original[first_batch:], restarted, strict=True):
            assert torch.equal(batch, expected)

    def test_patches_come_from_all_images_alike(self):
        images = [torch.full((3, 20, 20), value, dtype=torch.uint8) for value in (10, 120, 240)]
        (batch,) = islice(PatchStream(images, 17, 900, seed=0), 1)
        values = batch[:, 0, 0, 0]
        # The weights of a grey value may lose one in rounding.
        counts = [int((values.int() - value).abs().le(1).sum()) for value in (10, 120, 240)]
        assert sum(counts) == 900
        assert min(counts) > 240


class TestFindImages:
    def test_images_are_found_in_all_folders_and_sorted(self, tmp_path):
        names = ["b.png", "a/c.JPG", "a/b/d.tiff", "z.webp"]
        for name in [*names, "notes.txt", "a/mask.npy"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert find_images(tmp_path) == sorted(tmp_path / name for name in names)

    def test_a_folder_with_the_name_of_an_image_is_none(self, tmp_path):
        (tmp_path / "photos.jpg").mkdir()
        (tmp_path / "photos.jpg" / "a.png").touch()
        assert find_images(tmp_path) == [tmp_path / "photos.jpg" / "a.png"]

    def test_a_missing_folder_is_told(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"image folder does not exist: .*missing"):
            find_images(tmp_path / "missing")

    def test_a_file_in_place_of_a_folder_is_told(self, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(FileNotFoundError, match=r"image folder does not exist: .*a\.png"):
            find_images(tmp_path / "a.png")

    def test_a_folder_without_images_is_told(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(FileNotFoundError, match="has no images"):
            find_images(tmp_path)


class TestLoadImages:
    def load(self, picture, path):
        picture.save(path)
        (image,) = load_images([path])
        assert image.dtype == torch.uint8
        assert image.shape == (3, picture.height, picture.width)
        return image

    def test_an_rgb_image_keeps_its_values(self, tmp_path):
        expected = make_image(20, 30)
        image = self.load(Image.fromarray(expected.permute(1, 2, 0).numpy()), tmp_path / "a.png")
        assert torch.equal(image, expected)

    def test_a_greyscale_image_becomes_rgb(self, tmp_path):
        grey = make_image(20, 30)[0]
        image = self.load(Image.fromarray(grey.numpy()), tmp_path / "a.png")
        assert torch.equal(image, grey.expand(3, -1, -1))

    def test_transparency_is_dropped(self, tmp_path):
        expected = make_image(20, 30)
        pixels = torch.cat([expected, torch.full((1, 20, 30), 200, dtype=torch.uint8)])
        image = self.load(Image.fromarray(pixels.permute(1, 2, 0).numpy()), tmp_path / "a.png")
        assert torch.equal(image, expected)

    @pytest.mark.parametrize("suffix", ["png", "tiff"])
    def test_sixteen_bits_are_scaled_to_eight(self, tmp_path, suffix):
        values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
        image = self.load(Image.fromarray(values), tmp_path / f"a.{suffix}")
        expected = torch.from_numpy(values / 257).expand(3, -1, -1)
        assert (image.double() - expected).abs().max() <= 1

    @pytest.mark.parametrize(("size", "stored"), [((300, 600), (256, 512)), ((1024, 512), (512, 256))])
    def test_a_large_image_is_stored_smaller(self, tmp_path, size, stored):
        Image.new("RGB", size[::-1]).save(tmp_path / "a.png")
        (image,) = load_images([tmp_path / "a.png"])
        assert image.shape == (3, *stored)
        assert min(stored) == STORED_SIDE

    def test_images_keep_their_order(self, tmp_path):
        paths = [tmp_path / f"{name}.png" for name in "bac"]
        for value, path in enumerate(paths):
            Image.new("RGB", (5, 4), (value, 0, 0)).save(path)
        assert [int(image[0, 0, 0]) for image in load_images(paths)] == [0, 1, 2]

    @pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
    def test_a_truncated_image_is_told(self, tmp_path, suffix, kept):
        path = tmp_path / f"a.{suffix}"
        pixels = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=rf"Cannot read .*a\.{suffix} as an image: .* Repair or remove it"):
            load_images([path])

    def test_a_png_with_a_broken_chunk_is_told(self, tmp_path):
        path = tmp_path / "a.png"
        pixels = np.random.default_rng(0).integers(256, size=(300, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        second_chunk = content.index(b"IDAT", content.index(b"IDAT") + 4)
        path.write_bytes(content[:second_chunk] + b"\xf3$\x18z" + content[second_chunk + 4 :])
        with pytest.raises(ValueError, match=r"Cannot read .*a\.png as an image"):
            load_images([path])

    def test_an_image_too_large_to_decode_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=r"Cannot read .*a\.png as an image"):
            load_images([tmp_path / "a.png"])

    def test_something_else_than_an_image_is_told(self, tmp_path):
        (tmp_path / "a.jpg").write_text("no image")
        with pytest.raises(ValueError, match=r"Cannot read .*a\.jpg as an image"):
            load_images([tmp_path / "a.jpg"])
