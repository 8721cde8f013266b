"""Every kind of image file by every way on which anomalib and this package read one: it works, or the file is named."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem, PredictDataset
from anomalib.data.utils import read_image
from anomalib.visualization.image import item_visualizer
from PIL import Image

from anomalib_students.image_files import open_image
from anomalib_students.teacher.images import load_images

from .pictures import DAMAGED, SIDE, SOUND, pattern, write_picture


def by_data_sets(path):
    return read_image(path, as_tensor=True)


def by_inferencers(path):
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


def by_prediction(path):
    return PredictDataset(path)[0].image


def by_pretraining(path):
    return load_images([path], side=256)[0] / 255


def by_visualizer(path):
    item = ImageItem(image=torch.zeros(3, SIDE, SIDE), image_path=str(path))
    drawn = item_visualizer.visualize_image_item(
        item, fields=["image"], field_size=(SIDE, SIDE), text_config={"enable": False}
    )
    return torch.from_numpy(np.array(drawn)).permute(2, 0, 1) / 255


READERS = [by_data_sets, by_inferencers, by_prediction, by_pretraining, by_visualizer]


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
    with pytest.raises(ValueError, match=rf"Cannot read .*{path.name} as an image: .+ Repair or remove it") as error:
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


def test_batches_of_several_kinds_go_together(tmp_path):
    paths = [write_picture(name, tmp_path / str(number)) for number, name in enumerate(SOUND)]
    dataset = PredictDataset(tmp_path)
    batch = ImageBatch.collate([dataset[index] for index in range(len(paths))])
    assert batch.image.shape == (len(SOUND), 3, SIDE, SIDE)
