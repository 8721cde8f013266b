"""Every kind of image file by every way on which this package reads one: it works, or the file is named."""

import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image
from torchvision.transforms.v2.functional import to_image

from anomalib_students.data.dataset import ImageFileDataset
from anomalib_students.image_files import allow_pixels, check_image, open_image, read_rgb
from anomalib_students.teacher.data import load_images

from ..reliability.pictures import DAMAGED, SIDE, SOUND, pattern, write_picture


def samples_of(image, mask=""):
    return DataFrame(
        [{"image_path": str(image), "label": "", "label_index": 1, "mask_path": str(mask), "split": "test"}]
    )


def by_data_sets(path):
    return ImageFileDataset(samples_of(path))[0].image


def by_pretraining(path):
    return load_images([path], side=256)[0] / 255


def by_inferencers(path):
    return to_image(read_rgb(path)) / 255


READERS = [by_data_sets, by_pretraining, by_inferencers]


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("read", READERS)
def test_sound_files_are_read_rightly(name, read, tmp_path):
    image = read(write_picture(name, tmp_path / "good" / "picture"))
    assert image.shape == (3, SIDE, SIDE)
    # JPEG rounds, and 16 bits are rounded down to 8.
    allowed = 4 if name.endswith("jpg") else 1
    assert abs(image.numpy() * 255 - pattern()).max() <= allowed + 1e-3


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("read", READERS)
def test_damaged_files_are_named(name, read, tmp_path):
    path = write_picture(name, tmp_path / "good" / "picture")
    with pytest.raises(ValueError, match=rf"Cannot read .*{path.name} as an image: .+") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_big_endian_values_are_read(tmp_path):
    image = Image.frombytes("I;16B", (2, 1), bytes([0x80, 0x00, 0x01, 0x01]))
    image.save(tmp_path / "a.tiff")
    assert np.asarray(open_image(tmp_path / "a.tiff")).tolist() == [[127, 1]]


def test_the_first_image_of_several_is_read(tmp_path):
    first, second = (Image.new("RGB", (3, 2), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.tiff", save_all=True, append_images=[second])
    assert open_image(tmp_path / "a.tiff").convert("RGB").getpixel((2, 1)) == (255, 0, 0)


def test_cameras_of_twelve_bits_are_warned_of(tmp_path):
    Image.fromarray(np.full((4, 4), 4095, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="no value above 4095"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_masks_of_sixteen_bits_keep_what_they_mark(suffix, tmp_path):
    values = np.array([[0, 1, 256], [257, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"mask.{suffix}")
    Image.new("L", (3, 2)).save(tmp_path / "image.png")
    data = ImageFileDataset(samples_of(tmp_path / "image.png", tmp_path / f"mask.{suffix}"), has_masks=True)
    assert data[0].gt_mask.tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(9))
def test_images_are_turned_as_viewers_do(orientation, suffix, tmp_path):
    """The corner of the stored pixels, in the order of the EXIF standard: top left, top right, ..., left bottom."""
    stored = np.zeros((16, 32), dtype=np.uint8)
    stored[:4, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    image = np.asarray(open_image(path).convert("L"))
    top, left = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)][orientation]
    assert image.shape == ((16, 32) if orientation < 5 else (32, 16))
    assert image[-2 if top else 1, -2 if left else 1] > 200
    header = check_image(path)
    assert (header.height, header.width) == image.shape


def test_an_unreadable_orientation_is_ignored(tmp_path):
    Image.new("L", (4, 2)).save(tmp_path / "a.jpg", exif=b"Exif\0\0no exif")
    assert open_image(tmp_path / "a.jpg").size == (4, 2)
    assert check_image(tmp_path / "a.jpg")[:2] == (4, 2)


def test_large_images_can_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png as an image: it has 200 pixels, .* --data\.max_pixels 200\.$"):
        open_image(tmp_path / "a.png")
    allow_pixels(200)
    assert open_image(tmp_path / "a.png").size == (20, 10)
    with pytest.raises(ValueError, match="max_pixels must be a positive number"):
        allow_pixels(0)
