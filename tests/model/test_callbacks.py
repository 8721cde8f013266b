"""Pictures of predictions show what the model has seen."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.visualization import ImageVisualizer
from PIL import Image

from anomalib_students.model.callbacks import PictureWriter

from ..reliability.pictures import pattern


class Results:
    """What is needed of a trainer."""

    def __init__(self, folder):
        self.default_root_dir = folder


def draw(visualizer, path, folder):
    maps = torch.linspace(0, 1, 64).reshape(1, 8, 8)
    batch = ImageBatch(image=torch.zeros(1, 3, 8, 8), image_path=[str(path)], anomaly_map=maps, pred_mask=maps > 0.5)
    visualizer.on_test_batch_end(Results(folder), None, None, batch, 0)
    (picture,) = (folder / "images").rglob("*.png")
    return np.asarray(Image.open(picture)).astype(int)


@pytest.mark.parametrize("kind", ["grey16", "turned"])
def test_images_are_shown_as_the_model_has_seen_them(kind, tmp_path):
    """The same picture as anomalib draws of the same image in 8 bits and upright."""
    Image.fromarray(pattern()).save(tmp_path / "grey.png")
    if kind == "grey16":
        Image.fromarray(pattern().astype(np.uint16) * 257).save(tmp_path / "a.png")
    else:
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(pattern()[::-1, ::-1]).save(tmp_path / "a.png", exif=exif)
    expected = draw(ImageVisualizer(), tmp_path / "grey.png", tmp_path / "anomalibs")
    assert abs(draw(PictureWriter(), tmp_path / "a.png", tmp_path / "ours") - expected).max() <= 1
    assert abs(draw(ImageVisualizer(), tmp_path / "a.png", tmp_path / "misread") - expected).max() > 50
