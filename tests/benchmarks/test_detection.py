"""The benchmark of detection: its jobs on a tiny category, and the tables of made-up results."""

import json
import shutil

import numpy as np
import pytest
import torch
from anomalib.data.datasets.base import image as image_dataset
from anomalib.models.components import KCenterGreedy

from ..integration.conftest import write_category

STUDENTS = {
    "arguments": {"architecture": "paper", "patch_sizes": [33], "teacher": None},
    "trainer": {"max_steps": 2},
    "side": 64,
}
PADIM = {
    "model": "Padim",
    "arguments": {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False, "n_features": 4},
    "side": 64,
}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    """Leave anomalib and torch as they were."""
    for name in ("read_image", "read_mask"):
        monkeypatch.setattr(image_dataset, name, getattr(image_dataset, name))
    monkeypatch.setattr(KCenterGreedy, "update_distances", KCenterGreedy.update_distances)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Root of the category ``noise``, with two types of defects."""
    root = tmp_path_factory.mktemp("root")
    write_category(root / "noise", n_train=4)
    for folder in ("test", "ground_truth"):
        shutil.copytree(root / "noise" / folder / "square", root / "noise" / folder / "dent")
    return root


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("configuration", [STUDENTS, PADIM], ids=["students", "Padim"])
def test_a_job_leaves_a_result_and_is_done(configuration, root, resnet18_checkpoint, tmp_path):
    from detection_job import Job, main

    job = Job(configuration, "noise", 0, str(root), str(resnet18_checkpoint), True, str(tmp_path / "seed0.json"))
    assert not job.is_done()
    main(Job(**json.loads(json.dumps(job._asdict()))))
    assert job.is_done()
    result = json.loads((tmp_path / "seed0.json").read_text())
    assert set(result["image_AUROC_by_defect"]) == {"dent", "square"}
    assert set(result["image_AUROC_by_brightness"]) == {"1.0", "0.8", "0.9", "1.1", "1.2"}
    assert result["image_AUROC_by_brightness"]["1.0"] == result["image_AUROC"]
    assert all(0 <= result[name] <= 1 for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"))
    assert len(result["scores"]) == 6
    by_fraction = result["image_AUROC_by_fraction"]
    assert by_fraction["0.01" if configuration is STUDENTS else "0"] == result["image_AUROC"]
    assert result["steps"] == configuration.get("trainer", {}).get("max_steps", 4)


def test_without_masks_only_images_are_judged(root, resnet18_checkpoint, tmp_path):
    from detection_job import Job, main

    shutil.copytree(root / "noise", tmp_path / "noise", ignore=shutil.ignore_patterns("ground_truth"))
    main(Job(PADIM, "noise", 0, str(tmp_path), str(resnet18_checkpoint), False, str(tmp_path / "seed0.json")))
    result = json.loads((tmp_path / "seed0.json").read_text())
    assert 0 <= result["image_AUROC"] <= 1
    assert np.isnan([result["pixel_AUPRO"], result["pixel_AUROC"]]).all()
    assert result["gflop"] > 0


def test_other_settings_are_not_done(tmp_path):
    from detection_job import Job, settings

    output = tmp_path / "seed0.json"
    output.write_text(json.dumps({"settings": settings(STUDENTS, None)}))
    job = Job(STUDENTS, "noise", 0, ".", None, False, str(output))
    assert job.is_done()
    assert not job._replace(brightness=True).is_done()
    # What is named and is the default is no other setting; what is neither is.
    for changed, done in (({"max_tile": 512}, True), ({"n_students": 2}, False)):
        configuration = {**STUDENTS, "arguments": {**STUDENTS["arguments"], **changed}}
        assert job._replace(configuration=configuration).is_done() is done


def test_a_backbone_without_all_weights_is_refused(tmp_path, resnet18_checkpoint):
    from detection_job import make_model
    from safetensors.torch import load_file, save_file

    weights = load_file(resnet18_checkpoint)
    del weights["layer2.0.conv1.weight"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks weights of the backbone: layer2\.0\.conv1\.weight"):
        make_model(PADIM, str(tmp_path / "part.safetensors"))


def test_the_faster_coreset_is_the_same():
    from detection_job import hasten_coreset

    descriptors = torch.randn(300, 16) @ torch.randn(16, 64)

    def choose():
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002  (scikit-learn's, in the projection)
        return KCenterGreedy(descriptors, 0.1).select_coreset_idxs()

    slow = choose()
    hasten_coreset()
    assert choose() == slow


def write_result(folder, configuration, category, seed, **figures):
    path = folder / configuration / category / f"seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {
        "settings": {},
        "pixel_AUPRO": 0.9,
        "pixel_AUROC": 0.95,
        "image_AUROC": 0.8,
        "image_AUROC_by_defect": {"hole": 0.7},
        "image_AUROC_by_fraction": {"0": 0.7, "0.01": 0.85},
        "training_seconds": 100.0,
        "training_cpu_seconds": 80.0,
    }
    path.write_text(json.dumps({**defaults, **figures}))


def test_the_report_says_what_there_is(tmp_path):
    from detection_report import write_report

    by_brightness = {"1.0": 0.8, "0.9": 0.75, "1.1": 0.81}
    write_result(tmp_path, "students", "pill", 0, image_AUROC_by_brightness=by_brightness, gflop=3.5)
    write_result(tmp_path, "students", "pill", 1, image_AUROC=0.9, training_seconds=200.0)
    write_result(tmp_path, "padim", "pill", 0, settings={"side": 256})
    write_result(tmp_path, "padim", "screw", 0, image_AUROC=0.6, pixel_AUPRO=float("nan"), settings={"side": 384})
    (tmp_path / "students" / "milliseconds.json").write_text(json.dumps({"openvino bf16": 38.4, "openvino int8": 26.0}))
    report = write_report(tmp_path)
    assert (tmp_path / "report.md").read_text() == report
    rows = {tuple(cells[:2]): cells for line in report.splitlines() if (cells := line.strip("| ").split(" | "))}
    students = rows["students", "pill 2"]
    assert students[2:5] == ["0.900 (0.900 to 0.900)", "0.850 (0.800 to 0.900)", "0.950 (0.950 to 0.950)"]
    assert students[5:8] == ["-"] * 3
    assert students[8:] == [*["0.900 (1 of 2)", "0.850 (1 of 2)", "0.950 (1 of 2)"] * 2, "3.5", "150", "80", "38", "26"]
    padim = rows["padim", "pill 1, screw 1"]
    assert padim[8:14] == ["0.900 (1 of 2)", "0.700", "0.950", "0.900 (1 of 2)", "0.600", "0.950"]
    assert rows["students", "pill"] == ["students", "pill", "1", "0.800", "0.050", "-0.010", "0.050"]
    assert "| students | pill | 2 | 0.700 | 0.850 |" in report
    assert "padim has results of different settings." in report
