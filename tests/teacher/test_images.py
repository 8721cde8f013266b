import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_students.teacher.images import ImageStore, find_images, load_images


def make_image(height, width):
    return torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, height, width), dtype=np.uint8))


class TestImageStore:
    def test_every_pixel_of_every_image_is_found(self):
        images = [make_image(4, 7), 255 - make_image(6, 2), make_image(1, 1)]
        store = ImageStore.from_images(images)
        assert len(store) == 3
        for number, image in enumerate(images):
            height, width, offset = store.heights[number], store.widths[number], store.offsets[number]
            assert (height, width) == image.shape[1:]
            for row in range(height):
                for column in range(width):
                    assert torch.equal(store.pixels[offset + row * width + column], image[:, row, column])

    def test_it_moves_to_a_device_as_a_whole(self):
        store = ImageStore.from_images([make_image(4, 7)])
        moved = store.to(torch.device("meta"))
        assert moved.pixels.device.type == "meta"
        assert len(moved) == len(store)
        assert store.pixels.device.type == "cpu"


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
        (image,) = load_images([path], side=256)
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
    def test_a_large_image_is_reduced(self, tmp_path, size, stored):
        Image.new("RGB", size[::-1]).save(tmp_path / "a.png")
        (image,) = load_images([tmp_path / "a.png"], side=256)
        assert image.shape == (3, *stored)

    def test_images_keep_their_order(self, tmp_path):
        paths = [tmp_path / f"{name}.png" for name in "bac"]
        for value, path in enumerate(paths):
            Image.new("RGB", (5, 4), (value, 0, 0)).save(path)
        assert [int(image[0, 0, 0]) for image in load_images(paths, side=256)] == [0, 1, 2]

    @pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
    def test_a_truncated_image_is_told(self, tmp_path, suffix, kept):
        path = tmp_path / f"a.{suffix}"
        pixels = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=rf"Cannot read .*a\.{suffix} as an image: .* Repair or remove it"):
            load_images([path], side=256)

    def test_a_png_with_a_broken_chunk_is_told(self, tmp_path):
        path = tmp_path / "a.png"
        pixels = np.random.default_rng(0).integers(256, size=(300, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        second_chunk = content.index(b"IDAT", content.index(b"IDAT") + 4)
        path.write_bytes(content[:second_chunk] + b"\xf3$\x18z" + content[second_chunk + 4 :])
        with pytest.raises(ValueError, match=r"Cannot read .*a\.png as an image"):
            load_images([path], side=256)

    def test_an_image_too_large_to_decode_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=r"Cannot read .*a\.png as an image"):
            load_images([tmp_path / "a.png"], side=256)

    def test_something_else_than_an_image_is_told(self, tmp_path):
        (tmp_path / "a.jpg").write_text("no image")
        with pytest.raises(ValueError, match=r"Cannot read .*a\.jpg as an image"):
            load_images([tmp_path / "a.jpg"], side=256)
