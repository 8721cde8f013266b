"""The command that makes Tables 1 and 3."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import timm
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from safetensors.torch import save_file

from anomalib_students.model.settings import PRESETS
from reproduction import mvtec as module
from reproduction.__main__ import main
from tests.integration.conftest import write_category

SMALL = {"patch_sizes": "[17,33]", "baseline_patch_size": 33, "output_stride": 8, "training_mode": "phase", "epochs": 1}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command on two small categories, one of which has training images that are none."""
    for category in ("grid", "pill"):
        write_category(tmp_path / "data" / category, n_train=3)
    for image in (tmp_path / "data" / "grid" / "train" / "good").iterdir():
        image.write_bytes(b"no image")
    monkeypatch.setattr(module, "IMAGE_SIZE", 64)
    monkeypatch.setattr(module, "WORKERS", 0)
    monkeypatch.setitem(PRESETS, "paper", replace(PRESETS["paper"], n_students=1))

    def run(**settings):
        where = {"root": tmp_path / "data", "results": tmp_path / "out", "baseline_descriptors": 200}
        main(["mvtec", *(f"--{name}={value}" for name, value in {**SMALL, **where, **settings}.items())])
        return pd.read_csv(tmp_path / "out" / "results.csv").set_index(["row", "column"])["ours"]

    return run


def test_a_category_that_cannot_be_read_fails_and_the_others_are_measured(run, tmp_path):
    with pytest.raises(SystemExit, match=r"2 of 4 cells failed: grid, ours; grid, k_means"):
        run(methods="[ours,k_means]")
    assert "- grid, k_means: Cannot read" in (tmp_path / "out" / "results.md").read_text()
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["row", "column"])["ours"]["pill"]
    assert list(table.index) == ["ours", "K-Means", "p = 17", "p = 33"]
    assert table["ours"] == table["p = 33"]
    # What anomalib measures with the model that was kept.
    model = UninformedStudents.load_from_checkpoint(tmp_path / "out" / "pill" / "ours" / "model.ckpt")
    assert model.model.patch_sizes == (17, 33)
    for size in (17, 33):
        single = UninformedStudents(replace(model.settings, patch_sizes=(size,)), teacher=None, visualizer=False)
        weights = model.model.ensembles[f"p{size}"].state_dict()
        single.model.ensembles[f"p{size}"].load_state_dict(weights)
        engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False)
        (metrics,) = engine.test(single, datamodule=MVTec(tmp_path / "data", category="pill", num_workers=0))
        assert table[f"p = {size}"] == pytest.approx(metrics["pixel_AUPRO"], abs=1e-5)


def test_a_single_scale_has_no_others_beside_it(run):
    assert set(run(methods="[ours]", categories="[pill]", patch_sizes="[33]").index.get_level_values(1)) == {
        "ours",
        "p = 33",
    }


@pytest.mark.parametrize("method", ["nearest_neighbour", "cnn_feature_dictionary", "ssim_autoencoder"])
def test_baselines_are_measured(method, run, tmp_path, monkeypatch):
    # An autoencoder for objects takes images of 256 pixels.
    monkeypatch.setattr(module, "IMAGE_SIZE", 256 if method == "ssim_autoencoder" else 64)
    resnet18 = timm.create_model("resnet18", num_classes=0)
    save_file(resnet18.state_dict(), tmp_path / "resnet18.safetensors")
    run(methods=f"[{method}]", categories="[pill]", resnet18=tmp_path / "resnet18.safetensors", output_stride=8)
    result = json.loads((tmp_path / "out" / "pill" / method / "result.json").read_text())
    assert 0 < next(iter(result["figures"].values())) <= 1
    assert result["settings"]["output_stride"] == 8


def test_aupro_is_1_for_the_ground_truth_and_counts_all_images(run, tmp_path):
    data = module._data(tmp_path / "data", "pill")
    masks = iter(batch.gt_mask for batch in data.test_dataloader())
    found = module.aupro(lambda images: next(masks)[:, None].float(), data, transform=lambda *pair: pair)
    assert found == pytest.approx(1, abs=1e-3)
    with pytest.raises(StopIteration):
        next(masks)


def test_a_folder_without_categories_is_named(run, tmp_path):
    with pytest.raises(SystemExit, match=f"no categories of MVTec AD in {tmp_path}: name their folder with --root"):
        run(root=tmp_path)
