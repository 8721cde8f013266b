"""Masks that do not go together with their images are named."""

import pytest
from anomalib.data import Folder, MVTecAD

from ..reliability.pictures import write_inspection, write_mask


@pytest.fixture
def category(tmp_path):
    return write_inspection(tmp_path / "data" / "part")


def folder_of(category):
    masks = {"abnormal_dir": "test/bent", "mask_dir": "ground_truth/bent"}
    return Folder("part", root=category, normal_dir="train/good", **masks, num_workers=0, val_split_mode="none")


def mvtec_ad_of(category):
    return MVTecAD(root=category.parent, category=category.name, num_workers=0)


@pytest.mark.parametrize("datamodule", [folder_of, mvtec_ad_of])
class TestMasks:
    def test_those_that_are_missing_are_named(self, datamodule, category):
        (category / "ground_truth/bent/000_mask.png").unlink()
        with pytest.raises(ValueError, match=r"do not go together: .*bent.000\.png has no mask in .*bent\.$"):
            datamodule(category).setup()

    def test_those_that_are_left_over_are_named(self, datamodule, category):
        write_mask(category / "ground_truth/bent/007_mask.png")
        with pytest.raises(ValueError, match=r"together: the mask .*007_mask\.png has no image in .*bent\.$"):
            datamodule(category).setup()

    def test_those_of_other_names_are_named(self, datamodule, category):
        (category / "ground_truth/bent/001_mask.png").rename(category / "ground_truth/bent/101_mask.png")
        with pytest.raises(ValueError, match=r"001\.png has no mask in .*; the mask .*101_mask\.png has no image"):
            datamodule(category).setup()

    def test_those_that_fit_are_paired(self, datamodule, category):
        data = datamodule(category)
        data.setup()
        assert sum(bool(mask) for mask in data.test_data.samples["mask_path"]) == 2
