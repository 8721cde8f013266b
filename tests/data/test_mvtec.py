"""MVTec AD under the name that users type, and other data sets in its layout."""

import os
import urllib.error
from pathlib import Path

import pytest
import torch
from anomalib.data.datamodules.image import mvtecad

from anomalib_students.data import MVTec

from ..integration.conftest import SIDE, write_category


def test_defaults_are_the_papers_batch_size_and_anomalibs_root():
    datamodule = MVTec()
    assert datamodule.train_batch_size == 1
    assert datamodule.eval_batch_size == 8
    assert datamodule.root == mvtecad.MVTecAD().root
    assert datamodule.name == "MVTec"


@pytest.mark.parametrize("prepare", [True, False])
def test_any_category_in_the_layout_is_read(tmp_path, prepare):
    write_category(tmp_path / "my_part")
    datamodule = MVTec(root=tmp_path, category="my_part", num_workers=0)
    if prepare:
        datamodule.prepare_data()
    datamodule.setup()
    (train,) = [batch.image.shape for batch in datamodule.train_dataloader()][:1]
    assert train == (1, 3, SIDE, SIDE)
    (test,) = datamodule.test_dataloader()
    assert test.gt_label.sum() == 2
    assert torch.equal(test.gt_mask.flatten(1).any(dim=1), test.gt_label.bool())


def test_missing_folder_under_a_named_root_is_an_error_and_no_download(tmp_path, monkeypatch):
    monkeypatch.setattr(mvtecad, "download_and_extract", lambda *_: pytest.fail("no download from here"))
    write_category(tmp_path / "screw")
    datamodule = MVTec(root=tmp_path, category="bottle")
    for call in (datamodule.prepare_data, datamodule.setup):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        message = str(caught.value)
        assert str(tmp_path / "bottle") in message
        assert "has the categories screw" in message
        for hint in ("train/good", "test/<defect>", "ground_truth/<defect>", "--data.root"):
            assert hint in message


def test_unknown_category_lists_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'pil' isn't one of MVTec AD's: bottle, .*pill, .*zipper"):
        MVTec(root=tmp_path, category="pil").prepare_data()


@pytest.mark.parametrize("cause", [urllib.error.URLError("no route to host"), ValueError("wrong hash"), EOFError()])
def test_failed_download_says_which_folder_was_looked_for(tmp_path, monkeypatch, cause):
    def fail(*_):
        raise cause

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mvtecad, "download_and_extract", fail)
    with pytest.raises(FileNotFoundError) as caught:
        MVTec(category="bottle").prepare_data()
    assert str(tmp_path / "datasets" / "MVTecAD" / "bottle") in str(caught.value)
    assert "--data.root" in str(caught.value)
    assert caught.value.__cause__ is cause


def test_default_root_is_downloaded_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mvtecad, "download_and_extract", lambda root, _info: write_category(root / "bottle"))
    datamodule = MVTec()
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) == 6


def test_category_without_training_images_is_an_error(tmp_path):
    (tmp_path / "bottle" / "train" / "good").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no images in .*bottle.train.good"):
        MVTec(root=tmp_path).setup()


def test_a_missing_mask_is_named(tmp_path):
    write_category(tmp_path / "bottle")
    (tmp_path / "bottle/ground_truth/square/001_mask.png").unlink()
    (tmp_path / "bottle/ground_truth/square/.ipynb_checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"do not go together: .*square.001\.png has no mask\.$"):
        MVTec(root=tmp_path).setup()


@pytest.mark.skipif("ANOMALIB_STUDENTS_DATA" not in os.environ, reason="ANOMALIB_STUDENTS_DATA names no data sets")
def test_pill_is_read():
    datamodule = MVTec(root=Path(os.environ["ANOMALIB_STUDENTS_DATA"]) / "MVTecAD", category="pill", num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (267, 167)
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.image.shape[:2] == (8, 3)
    assert batch.gt_mask.shape == (8, *batch.image.shape[2:])
    assert batch.gt_mask.dtype == torch.bool
