"""The Ray job that sweeps the weights of the teacher's loss."""

import io
from pathlib import Path

import pandas as pd
import pytest
import yaml
from jsonargparse import Namespace

from anomalib_students import cli
from anomalib_students.cluster import sweep
from anomalib_students.cluster.storage import Storage
from anomalib_students.teacher.pretrain import PAPER_WEIGHTS

from .conftest import SMALL_IMAGES, kill, wait_for

pytestmark = pytest.mark.slow

SETTINGS = f"""
trials: 4
epochs: 1
pretraining: {{max_steps: 2, batch_size: 4, descriptor_dim: 8, checkpoint_every: 1}}
model:
{SMALL_IMAGES}
"""


def test_a_sweep_that_is_killed_and_resumed_finds_the_best_weights(cluster, start_job, run_job, tmp_path):
    """Without data or images of one's own: with the sample parts, but small."""
    folder = tmp_path / "storage" / "sweep"
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    options = [
        f"--address={cluster}",
        f"--config={tmp_path / 'settings.yaml'}",
        f"--storage_path={tmp_path / 'storage'}",
    ]
    first = start_job("sweep.py", *options)
    wait_for(first, lambda: list(folder.glob("teachers/*/teacher.safetensors")))
    kill(first)
    done = next(folder.glob("teachers/*/teacher.safetensors"))
    written = done.stat().st_mtime

    output = run_job("sweep.py", *options)
    assert f"The results are in {folder}" in output
    # What was pretrained before is not pretrained again.
    assert done.stat().st_mtime == written

    table = pd.read_csv(folder / "sweep.csv")
    assert len(table) == 4
    weights = table[["lambda_k", "lambda_m", "lambda_c"]].to_dict("records")
    names = ("lambda_k", "lambda_m", "lambda_c")
    assert all(dict(zip(names, setting, strict=True)) in weights for setting in PAPER_WEIGHTS)
    assert (table["pixel_AUPRO"] != table["test_pixel_AUPRO"]).all()
    assert set(table["end"]) <= {"finished", "stopped early"}
    finished = table[table["end"] == "finished"]
    assert finished["test_pixel_AUPRO"].between(0, 1).all()
    assert table["pixel_AUPRO"].is_monotonic_decreasing

    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert {name: best[name] for name in ("lambda_k", "lambda_m", "lambda_c")} == finished.iloc[0][
        ["lambda_k", "lambda_m", "lambda_c"]
    ].to_dict()
    teacher = Path(tmp_path / "best.safetensors")
    results = f"--results={tmp_path / 'results'}"
    cli.main(["pretrain", "-c", str(folder / "best.yaml"), f"--output={teacher}", results])
    assert teacher.is_file()


def test_the_settings_of_the_paper_come_first_and_others_follow(nodes, tmp_path, monkeypatch):
    def sum_of_weights(settings, pretraining, config):
        from ray import tune

        tune.report({settings.metric: sum(config.values())})

    monkeypatch.setattr(sweep, "_run_trial", sum_of_weights)
    choices = {"lambda_k": (0.0, 0.5, 1.0), "lambda_m": (0.0, 1.0), "lambda_c": (0.0, 1.0)}
    settings = Namespace(
        storage=Storage(str(tmp_path)),
        data={},
        model={},
        trainer={},
        seed=0,
        categories=None,
        epochs=1,
        metric="pixel_AUPRO",
        trials=8,
        workers=1,
        resources={"CPU": 1},
    )
    files = sweep.sweep_files(settings, {}, choices, sweep.run_sweep(settings, {}, choices))
    assert set(files) == {"sweep.csv", "sweep.md"}
    table = pd.read_csv(io.BytesIO(files["sweep.csv"]))
    assert len(table) == 8
    assert set(table["end"]) == {"stopped early"}
    weights = table[list(choices)].to_dict("records")
    assert all(dict(zip(choices, map(float, setting), strict=True)) in weights for setting in PAPER_WEIGHTS)
    assert all(setting[name] in values for setting in weights for name, values in choices.items())
    assert table["pixel_AUPRO"].is_monotonic_decreasing
