"""The pretraining task on a few small images, with a source network of random weights."""

import csv
import shutil

import numpy as np
import pytest
import torch

from anomalib_students.networks.weights import read_metadata
from anomalib_students.teacher import pretrain as module
from anomalib_students.teacher import sources

from .conftest import PRETRAIN, assert_same_weights, record_steps

TASK = PRETRAIN

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory")


def test_a_finished_run_can_be_resumed_to_write_its_teacher_again(run, finished, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results")
    path = run(resume=True)
    assert_same_weights(path, finished / "p17.safetensors")
    assert read_metadata(path) == read_metadata(finished / "p17.safetensors")


def test_distillation_is_measured_on_the_final_teacher(run, finished):
    path = run(checkpoint_every=4)
    assert_same_weights(path, finished / "p17.safetensors")
    assert read_metadata(path)["held_out_r2"] == read_metadata(finished / "p17.safetensors")["held_out_r2"]


def test_a_run_that_is_stopped_early_writes_no_teacher(run, monkeypatch, tmp_path):
    def stop(module, _):
        module.trainer.should_stop = module.global_step >= 2

    record_steps(monkeypatch, TASK, stop)
    with pytest.raises(RuntimeError, match=r"Pretraining stopped after \d of 6 steps. Continue with --resume true"):
        run(checkpoint_every=4)
    assert not (tmp_path / "p17.safetensors").exists()


def test_no_training_patch_comes_from_the_held_out_image(run, photographs, monkeypatch):
    split = []

    def keep(module, _):
        split[:] = module._train_images, module._held_out_images

    record_steps(monkeypatch, TASK, keep)
    run(max_steps=1)
    train_images, held_out_images = split
    assert len(train_images) + 1 == len(list(photographs.iterdir()))
    assert len(held_out_images) == 1
    pixels = torch.cat([train_images.pixels, held_out_images.pixels]).unflatten(0, (6, -1))
    assert len(pixels.unique(dim=0)) == 6


def test_triplets_need_a_different_image_for_training_and_held_out(run, photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "four")
    for number in (4, 5):
        (tmp_path / "four" / f"{number}.png").unlink()
    assert run(images=tmp_path / "four", lambda_m=1.0, max_steps=1).is_file()


@pytest.mark.parametrize(
    "weights",
    [
        *({"lambda_k": value} for value in (-1.0, float("nan"))),
        *({"lambda_c": -0.1}, {"lambda_m": -0.1}, {"lambda_k": 0.0, "lambda_c": 0.0}),
        *({"margin": value} for value in (0.0, float("inf"))),
    ],
    ids=str,
)
def test_weights_and_margins_that_make_no_loss_are_refused(run, weights):
    with pytest.raises(ValueError, match="margin .* greater than 0" if "margin" in weights else "at least 0, and not"):
        run(**weights)


@pytest.mark.parametrize(
    ("weights", "computed"),
    [
        ({"lambda_k": 2.0, "lambda_c": 0.0}, {"distillation"}),
        ({"lambda_k": 0.0, "lambda_c": 0.5}, {"compactness"}),
        ({"lambda_k": 0.0, "lambda_m": 3.0, "lambda_c": 0.0}, {"triplet"}),
        ({"lambda_k": 2.0, "lambda_m": 3.0, "lambda_c": 0.5}, {"distillation", "triplet", "compactness"}),
    ],
)
def test_the_loss_is_equation_6_and_a_weight_of_zero_costs_nothing(run, weights, computed, monkeypatch):
    called = set()

    def record(module, name, term):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: called.add(term) or function(*args, **kwargs))

    for term in ("distillation", "triplet", "compactness"):
        record(module, f"{term}_loss", term)
    record(sources.timm, "create_model", "distillation")
    steps = record_steps(
        monkeypatch, TASK, lambda module, loss: (float(loss.detach()), {**module.trainer.callback_metrics})
    )
    run(**weights, max_steps=1)
    assert called == computed
    ((loss, metrics),) = steps
    names = module.LOSS_WEIGHTS
    assert names.keys() & metrics.keys() == computed
    assert loss == pytest.approx(sum(weights[names[name]] * float(metrics[name]) for name in computed), rel=1e-5)


def test_a_teacher_learns_from_triplets_alone(run, tmp_path):
    path = run(max_steps=60, batch_size=32, lambda_k=0.0, lambda_m=1.0, lambda_c=0.01, checkpoint_every=1)
    metadata = read_metadata(path)
    assert metadata["source"] == "none"
    assert metadata["lambda_m"] == "1.0"
    assert metadata["margin"] == "1.0"
    assert "held_out_r2" not in metadata
    with next(tmp_path.glob("results/*/csv/*/metrics.csv")).open() as file:
        ordered = [float(row["held_out_triplets"]) for row in csv.DictReader(file) if row["held_out_triplets"]]
    assert float(metadata["held_out_triplets"]) == pytest.approx(ordered[-1], abs=1e-4)
    assert all(0 <= each <= 1 for each in ordered)


def test_a_finished_run_can_be_resumed_with_more_steps(run, finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "results", tmp_path / "results")
    rates = record_steps(monkeypatch, TASK, lambda module, _: module.optimizers().param_groups[0]["lr"])
    assert read_metadata(run(resume=True, max_steps=8))["iterations"] == "8"
    # The first follows the schedule of the shorter run.
    assert len(rates) == 2
    assert rates[1] == pytest.approx(1e-2 * (1 + np.cos(np.pi * 7 / 8)) / 2)
