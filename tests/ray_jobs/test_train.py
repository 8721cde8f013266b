"""The Ray job that trains a grid of ensembles: on a cluster of two nodes, and on only this machine."""

import json
import os
import runpy
import signal
import subprocess

import pandas as pd
import pytest
import torch
from anomalib.engine import Engine
from anomalib.models import UninformedStudents

from anomalib_students.data import SampleParts
from tests.integration.conftest import write_category

from .conftest import JOBS, SMALL_IMAGES, finish, kill, wait_for

pytestmark = pytest.mark.slow

SETTINGS = f"""
patch_sizes: [83]
data:
  class_path: MVTec
model:
  n_students: 2
  lr: 1.0e-3
{SMALL_IMAGES}
trainer: {{max_epochs: 2, check_val_every_n_epoch: 2}}
"""
EPOCHS = 60
"""Long enough to be interrupted after the first checkpoint."""
SMALL = f"""
model:
{SMALL_IMAGES}
trainer: {{max_epochs: 1, check_val_every_n_epoch: 1}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data: a good category, and one whose training images are none."""
    root = tmp_path_factory.mktemp("data")
    for category in ("dots", "broken"):
        write_category(root / category)
    for image in (root / "broken" / "train" / "good").iterdir():
        image.write_bytes(b"no image")
    return root


@pytest.fixture
def options(root, tmp_path):
    """Options of all jobs; later ones replace them."""
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    files = [f"--config={tmp_path / 'settings.yaml'}", f"--storage_path={tmp_path / 'storage'}"]
    return [*files, f"--data.root={root}"]


def load(folder):
    """State of the model in the last checkpoint of an ensemble."""
    path = json.loads((folder / "result.json").read_text())["checkpoint"]
    return torch.load(folder.parent / path / "checkpoint.ckpt", weights_only=False)


def test_a_grid_goes_on_when_worker_and_driver_are_killed(cluster, start_job, run_job, options, root, tmp_path):
    """On two nodes, with categories beside it whose images are missing, or cannot be read."""
    options += [f"--address={cluster}", "--categories=[dots,missing,broken]", f"--trainer.max_epochs={EPOCHS}"]
    folder = tmp_path / "storage" / "train"
    first = start_job("train.py", *options)
    wait_for(first, lambda: kept_steps(folder / "dots-p83"))
    killed, before = worker_processes(), kept_steps(folder / "dots-p83")
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert killed
    # The later one is of the workers that were started in place of those that died.
    wait_for(first, lambda: kept_steps(folder / "dots-p83") > before)
    kill(first)
    assert not (folder / "dots-p83" / "result.json").exists()

    # The results may be moved before.
    (tmp_path / "storage").rename(tmp_path / "moved")
    folder = tmp_path / "moved" / "train"
    steps = kept_steps(folder / "dots-p83")
    output = run_job("train.py", *options, f"--storage_path={tmp_path / 'moved'}", code=1)
    reasons = {"missing": f"There are no images in {root / 'missing'}", "broken": f"Cannot read {root / 'broken'}"}
    for category, reason in reasons.items():
        (line,) = [line for line in output.splitlines() if line.startswith(f"{category} failed: ")]
        assert reason in line
        assert f"- {category} failed: {reason}" in (folder / "results.md").read_text()
        # It was found before workers were started.
        assert not (folder / f"{category}-p83").exists()
    assert set(pd.read_csv(folder / "results.csv")["category"]) == {"dots"}
    # Five images in an epoch. The first checkpoint of the resumed training is of its first epoch.
    assert load(folder / "dots-p83")["global_step"] == 5 * EPOCHS
    assert min(kept_steps(folder / "dots-p83")) > max(steps)


def test_a_training_goes_on_when_its_node_is_lost(nodes, start_job, options, tmp_path):
    """On the only node that is large enough, and then on another."""
    options += [
        f"--address={nodes.address}",
        "--categories=[dots]",
        f"--trainer.max_epochs={EPOCHS}",
        "--cpus_per_worker=2",
    ]
    folder = tmp_path / "storage" / "train" / "dots-p83"
    lost = nodes.add_node(num_cpus=2)
    job = start_job("train.py", *options)
    wait_for(job, lambda: kept_steps(folder))
    nodes.remove_node(lost)
    assert not (folder / "result.json").exists()
    spare = nodes.add_node(num_cpus=2)
    finish(job)
    assert load(folder)["global_step"] == 5 * EPOCHS
    nodes.remove_node(spare)


def test_without_arguments_it_makes_a_model_of_two_scales_and_its_report(start_job, tmp_path):
    """On this machine, with the sample parts, but small.

    The merged model is an ordinary checkpoint, which measures what the report says.
    """
    (tmp_path / "small.yaml").write_text(SMALL)
    storage = f"--storage_path={tmp_path / 'storage'}"
    output = finish(
        start_job("train.py", f"--config={tmp_path / 'small.yaml'}", storage, "--export=openvino", "--report=true")
    )
    assert "Started a local Ray instance" in output
    assert "data, p = 83: done" in output
    folder = tmp_path / "storage" / "train"
    table = pd.read_csv(folder / "results.csv")
    assert list(table["category"]) == ["part"] * 3
    assert list(table["scale"]) == ["p = 83", "p = 167", "multi-scale"]
    (finished,) = folder.glob("*/model.ckpt")
    names = {path.name for path in finished.parent.iterdir()}
    assert {"model.ckpt", "result.json", "weights", "report.html"} <= names
    assert list(finished.parent.rglob("*.xml"))

    model = UninformedStudents.load_from_checkpoint(finished)
    assert model.model.patch_sizes == (83, 167)
    assert model.visualizer is not None
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu")
    (metrics,) = engine.test(model, datamodule=SampleParts(num_workers=0))
    merged = table[table["scale"] == "multi-scale"].iloc[0]
    for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"):
        assert metrics[name] == pytest.approx(merged[name], abs=1e-6)


def test_new_teachers_have_the_networks_of_the_model(photographs, monkeypatch):
    main, seen = runpy.run_path(str(JOBS / "train.py"))["main"], []
    monkeypatch.setitem(main.__globals__, "connect", lambda _: None)
    monkeypatch.setitem(main.__globals__, "train_categories", lambda *given: seen.append(given[1]) or {})
    assert main([f"--teacher_images={photographs}", "--model.preset=paper", "--patch_sizes=[33]"]) == 0
    assert (seen[0]["architecture"], seen[0]["descriptor_dim"]) == ("paper", 128)


def test_two_workers_measure_the_statistics_of_one(run_job, options, tmp_path):
    """The students stay as they were drawn, so that the scores are those of the same networks."""
    # More points than dimensions: whitened, others would depend on the order of the sums.
    options += ["--categories=[dots]", "--model.lr=1e-30", "--model.output_stride=4"]
    options += [f"--storage_path={(tmp_path / 'storage').as_uri()}"]
    run_job("train.py", *options, "--name=one")
    run_job("train.py", *options, "--name=two", "--workers_per_ensemble=2")
    one, two = (load(tmp_path / "storage" / name / "dots-p83") for name in ("one", "two"))
    # Five images in an epoch: five steps for one worker, three for each of two.
    assert (one["global_step"], two["global_step"]) == (10, 6)
    names = [name for name in one["state_dict"] if name.endswith(("_mean", "_std")) and "ensembles" in name]
    assert len(names) == 7
    for name in names:
        torch.testing.assert_close(two["state_dict"][name], one["state_dict"][name], rtol=1e-5, atol=1e-6)

    model = tmp_path / "storage" / "one" / "dots" / "model.ckpt"
    written = model.stat().st_mtime
    (tmp_path / "storage" / "one" / "results.csv").unlink()
    run_job("train.py", *options, "--name=one")
    # What is done is not done again.
    assert model.stat().st_mtime == written
    assert set(pd.read_csv(tmp_path / "storage" / "one" / "results.csv")["category"]) == {"dots"}


def kept_steps(folder):
    """Steps of the checkpoints that Ray has kept; the one that it writes may be half-written."""
    try:
        kept = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())["checkpoint_results"]
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return [result["metrics"]["step"] for result in kept]


def worker_processes():
    listing = subprocess.run(["pgrep", "-f", "^ray::RayTrainWorker"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listing.stdout.split()]
