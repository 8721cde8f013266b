"""The textures of the benchmark: images of only their names, and masks that cover what was changed."""

from itertools import product

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def textures():
    import textures

    return textures


def test_images_are_made_of_their_names_and_masks_cover_defects(textures, monkeypatch):
    for texture, defect in product(textures.TEXTURES, textures.DEFECTS):
        image, mask = textures.render(texture, "test", defect, 0)
        again, _ = textures.render(texture, "test", defect, 0)
        other, _ = textures.render(texture, "test", defect, 1)
        np.testing.assert_array_equal(image, again)
        assert np.abs(image.astype(int) - other).mean() > 1

        with monkeypatch.context() as patch:
            patch.setitem(textures.DEFECTS, defect, lambda surface, rng: surface)
            good, nothing = textures.render(texture, "test", defect, 0)
        assert not nothing.any()
        changed = np.abs(image.astype(int) - good).max(axis=-1) > 255 * textures.VISIBLE + 1
        assert 0 < (mask == 255).mean() < 0.1
        assert (mask[changed] == 255).all()


def test_a_folder_in_the_layout_of_mvtec_ad_is_written(textures, monkeypatch, tmp_path):
    monkeypatch.setattr(textures, "COUNTS", {"train/good": 1, "test/good": 1})
    monkeypatch.setattr(textures, "DEFECTIVE", 1)
    textures.textures(tmp_path)
    assert len(list(tmp_path.glob("*/train/good/*.png"))) == len(textures.TEXTURES)
    for path in tmp_path.glob("cloth/test/cut/*.png"):
        mask = tmp_path / "cloth" / "ground_truth" / "cut" / f"{path.stem}_mask.png"
        assert Image.open(mask).size == Image.open(path).size == (textures.SIDE, textures.SIDE)
