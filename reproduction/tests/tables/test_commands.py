"""The commands: from data to the paper's tables, interrupted and resumed, and as a user calls them."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents

from anomalib_students import ScaleMetrics
from anomalib_students.model.merge import merge_scales
from anomalib_students.networks.weights import read_metadata
from reproduction import __main__ as cli
from reproduction.tables import commands
from tests.integration.conftest import write_category

COMMAND = [sys.executable, "-m", "reproduction"]
SMALL = {
    "n_students": 1,
    "output_stride": 8,
    "training_mode": "phase",
    "image_size": 48,
    "lr": 1e-3,
    "baseline_samples": 200,
    "ray": "false",
}


NAMES = ("settings", "categories", "methods", "patch_sizes", "baseline_patch_size", "report")
"""Arguments of ``mvtec_jobs``."""


class Killed(BaseException):
    """What no code handles."""


def options(**settings):
    return [f"--{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data: two good categories, and one whose training images are none."""
    root = tmp_path_factory.mktemp("data")
    for category in ("pill", "grid", "broken"):
        write_category(root / category)
    for image in (root / "broken" / "train" / "good").iterdir():
        image.write_bytes(b"no image")
    return root


@pytest.fixture
def run(root, tmp_path):
    """Run the command for MVTec AD in this process."""

    def run(**settings):
        where = {"root": root, "results": tmp_path, "name": "table", "methods": "[ours]", "patch_sizes": "[33]"}
        cli.main(["mvtec", *options(**{**SMALL, **where, **settings})])

    return run


@pytest.fixture
def steps(monkeypatch):
    """Epochs of the training steps, which ``kill_at`` in it kills at that number of steps."""

    class Steps(list):
        kill_at = None

    steps = Steps()
    step = UninformedStudents.training_step

    def training_step(self, batch):
        steps.append(self.current_epoch)
        if len(steps) == steps.kill_at:
            raise Killed
        return step(self, batch)

    monkeypatch.setattr(UninformedStudents, "training_step", training_step)
    return steps


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on(run, steps, tmp_path, capsys):
    settings = {"categories": "[grid,pill]", "epochs": 2}
    # Five images are trained on in an epoch: in the second epoch of the second category.
    steps.kill_at = 17
    with pytest.raises(Killed):
        run(**settings)
    folder = tmp_path / "table"
    finished = folder / "grid" / "ours-p33" / "result.json"
    written, content = finished.stat().st_mtime_ns, finished.read_text()
    assert not (folder / "pill" / "ours-p33" / "result.json").exists()
    assert set(pd.read_csv(folder / "results.csv")["row"]) == {"grid", "mean"}
    before = torch.load(folder / "pill" / "ours-p33" / "last.ckpt", weights_only=False)["callbacks"]

    with pytest.raises(SystemExit, match="There is a job in"):
        run(**settings)
    with pytest.raises(SystemExit, match=r"had other settings: lr=0\.001"):
        run(**settings, lr=1e-2, resume="true")
    steps.clear()
    run(**settings, resume="true")
    assert steps == [1] * 5
    assert (finished.stat().st_mtime_ns, finished.read_text()) == (written, content)
    result = json.loads((folder / "pill" / "ours-p33" / "result.json").read_text())
    assert result["seconds"]["training"] > round(before["Progress"]["seconds"], 1)
    assert result["settings"]["epochs"] == 2
    assert {path.name for path in (folder / "pill" / "ours-p33").iterdir()} == {"result.json", "model.ckpt"}
    assert set(pd.read_csv(folder / "results.csv")["row"]) == {"grid", "pill", "mean"}
    assert "results.md" in capsys.readouterr().out

    # With nothing left to do, and as another selection.
    steps.clear()
    run(**settings, resume="true")
    run(**{**settings, "categories": "[grid]"}, resume="true")
    assert steps == []
    assert set(pd.read_csv(folder / "results.csv")["row"]) == {"grid", "pill", "mean"}


def test_limits_and_the_categories_that_are_there(run, steps, root, tmp_path):
    with pytest.raises(SystemExit, match="There are no categories of MVTec AD in"):
        run(root=tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pill").symlink_to(root / "pill")
    run(root=tmp_path / "data", epochs=1, train_limit=3, test_limit=2)
    # Of three images one is held out.
    assert len(steps) == 2
    assert (tmp_path / "table" / "pill" / "ours-p33" / "model.ckpt").is_file()


def test_an_architecture_has_its_own_patch_sizes(root, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        commands, "mvtec_jobs", lambda *arguments: asked.update(zip(NAMES, arguments, strict=True)) or {}
    )
    monkeypatch.setattr(commands, "run_experiment", lambda *_: None)
    call = ["mvtec", *options(root=root, results=tmp_path, architecture="medium")]
    cli.main(call)
    assert asked["settings"].architecture == "medium"
    assert (asked["patch_sizes"], asked["baseline_patch_size"]) == ([33, 65], 65)
    with pytest.raises(SystemExit, match="No architecture for patch size 17: choose from"):
        cli.main([*call, "--name=other", "--patch_sizes=[17]"])
    assert not (tmp_path / "other").exists()


def test_our_models_have_reports_if_they_are_asked_for(run, tmp_path):
    selection = {"categories": "[grid]", "methods": "[ours,k_means]", "epochs": 1, "train_limit": 3, "test_limit": 2}
    run(**selection, patch_sizes="[17,33]", report="true")
    folder = tmp_path / "table" / "grid"
    assert {path.parent.name for path in folder.glob("*/report.html")} == {
        "ours-p17",
        "ours-p33",
        "ours-multi-scale-p17+33",
    }
    assert (folder / "ours-p17" / "report.html").read_text().count("<article") == 2
    run(**{**selection, "name": "other"})
    assert not list((tmp_path / "other").rglob("report.html"))


@pytest.mark.slow
def test_mvtec_as_a_user_calls_it(root, tmp_path):
    """With a category that cannot be read, which fails alone."""
    selection = {"methods": "[ours,k_means]", "categories": "[broken,pill]", "patch_sizes": "[33,65]", "epochs": 1}
    call = [*COMMAND, "mvtec", *options(**SMALL, **selection, root=root, results="out", name="table")]
    finished = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 1, finished.stderr[-5000:]
    folder = tmp_path / "out" / "table"
    reason = f"Cannot read {root / 'broken'}"
    assert f"broken, ours, p33 failed: {reason}" in finished.stderr
    assert "4 of 8 cells failed: broken, ours, p33; " in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "Table 1" in finished.stdout
    assert f"The results are in {folder / 'results.md'}" in finished.stdout
    report = (folder / "results.md").read_text()
    assert f"- broken, ours, p65: {reason}" in report
    assert "- broken, ours, multi-scale-p33+65: it needs broken, ours, p33, which failed" in report
    assert (folder / "results.png").stat().st_size > 5000
    table = pd.read_csv(folder / "results.csv").set_index(["table", "row", "column"])["ours"]
    assert set(table.index) == {
        *(("Table 1", row, column) for row in ("pill", "mean") for column in ("ours", "K-Means")),
        *(("Table 3", row, column) for row in ("pill", "mean") for column in ("p = 33", "p = 65", "p = 33+65")),
    }

    # What anomalib measures with the models that were trained.
    paths = [folder / "pill" / f"ours-p{size}" / "model.ckpt" for size in (33, 65)]
    merged = merge_scales([UninformedStudents.load_from_checkpoint(path) for path in paths])
    merged.visualizer = None
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", callbacks=[ScaleMetrics()])
    (metrics,) = engine.test(merged, datamodule=MVTec(root=root, category="pill", num_workers=0))
    for name, column in (("p33_pixel_AUPRO", "p = 33"), ("p65_pixel_AUPRO", "p = 65"), ("pixel_AUPRO", "p = 33+65")):
        assert table["Table 3", "pill", column] == pytest.approx(metrics[name], abs=1e-5)


@pytest.mark.slow
def test_one_class_from_data_to_tables(mnist_root, photographs, tmp_path, monkeypatch):
    settings = {
        "data": "mnist",
        "root": mnist_root,
        "cache_dir": "cache",
        "classes": "[0,7]",
        "methods": "[ours,nearest_neighbour]",
        "n_students": 2,
        "epochs": 1,
        "batch_size": 4,
        "train_limit": 12,
        "test_limit": 9,
        "lr": 1e-3,
        "teacher_images": photographs,
        "loss_weights": "[[0,1,1]]",
        "teacher_steps": 2,
        "results": "out",
        "name": "digits",
        "ray": "false",
    }
    monkeypatch.chdir(tmp_path)
    cli.main(["one-class", *options(**settings)])
    folder = tmp_path / "out" / "digits"
    table = pd.read_csv(folder / "results.csv", dtype={"row": str}).set_index(["table", "row", "column"])
    columns = ["ours, bundled teacher", "1-NN", "ours, L_m L_c"]
    assert set(table.index) == {
        *(("Table 6", row, column) for row in ("0", "7", "mean") for column in columns),
        *(("Table 2", column, "MNIST") for column in columns),
    }
    assert table.loc[("Table 6", "7", "ours, L_m L_c"), "paper"] == 0.995
    digits = table.loc["Table 6"]["ours"].unstack()
    assert table.loc[("Table 2", "1-NN", "MNIST"), "ours"] == pytest.approx(digits["1-NN"][["0", "7"]].mean())
    # One teacher for both digits.
    (teacher,) = (folder / "teachers").glob("*.safetensors")
    assert read_metadata(teacher)["lambda_m"] == "1.0"
    assert json.loads((folder / "teachers" / "k0-m1-c1" / "result.json").read_text())["teacher"]["iterations"] == "2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": "[0,11]"}, "MNIST has no class 11: its classes are 0, 1, 2"),
        ({"loss_weights": "[[1,0,1]]"}, "name a folder of photographs"),
        ({"architecture": "medium", "patch_size": 17}, "No architecture for patch size 17: choose from"),
    ],
)
def test_one_class_settings_that_do_not_fit_are_refused(settings, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        cli.main(["one-class", *options(data="mnist", results=tmp_path, **settings)])
    assert not list(tmp_path.iterdir())
