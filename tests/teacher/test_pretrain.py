"""The pretraining task on a few small images, with a source network of random weights."""

import csv
import errno
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from anomalib_students import cli, files
from anomalib_students.networks import weights
from anomalib_students.networks.weights import load_teacher, read_metadata
from anomalib_students.teacher import pretrain as module
from anomalib_students.teacher import sources
from anomalib_students.teacher.pretrain import TeacherPretraining, pretrain

from .conftest import assert_same_weights, interrupt_at, record_steps

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory")


@pytest.fixture(scope="module", autouse=True)
def _cheap(cheap):
    cheap.setattr(module, "STATISTICS_BATCHES", 4)
    cheap.setattr(module, "HELD_OUT_BATCHES", 2)
    cheap.setattr(module, "MEASURED_BATCH_SIZE", 8)


@pytest.fixture(scope="module")
def settings(photographs, resnet18_checkpoint):
    return {
        "images": photographs,
        "patch_size": 17,
        "descriptor_dim": 8,
        "source_checkpoint": resnet18_checkpoint,
        "source_layer": "layer1",
        "source_size": 32,
        "max_steps": 6,
        "batch_size": 8,
        "lr": 1e-2,
        "accelerator": "cpu",
        "checkpoint_every": 2,
    }


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """Folder of a run that nothing has interrupted: its teacher, and its results."""
    folder = tmp_path_factory.mktemp("finished")
    pretrain(**settings, output=folder / "p17.safetensors", results=folder / "results")
    return folder


@pytest.fixture
def run(settings, tmp_path):
    """Pretrain a teacher in a few steps; keyword arguments replace the settings."""

    def run(**changes):
        return pretrain(
            **{**settings, "output": tmp_path / "p17.safetensors", "results": tmp_path / "results", **changes}
        )

    return run


def read_metrics(results):
    """Rows of all metrics of a run, each resumption of which has a file of its own."""
    rows = []
    for path in sorted(results.glob("*/csv/*/metrics.csv")):
        with path.open() as file:
            rows.extend(csv.DictReader(file))
    return rows


def test_a_teacher_file_is_written_and_says_where_it_comes_from(run, tmp_path):
    path = run(data_name="Pictures", licences="CC0", lr=1e-3, lambda_c=0.5)
    assert path == tmp_path / "p17.safetensors"
    assert load_teacher(path, patch_size=17, descriptor_dim=8)(torch.rand(2, 3, 17, 17)).shape == (2, 8, 1, 1)

    metadata = read_metadata(path)
    assert metadata.pop("architecture") == "paper"
    assert metadata.pop("teacher_format") == "1"
    assert float(metadata.pop("held_out_r2")) <= 1
    assert metadata.pop("made_with").startswith("anomalib-students ")
    assert metadata == {
        "patch_size": "17",
        "descriptor_dim": "8",
        "data": "Pictures",
        "n_images": "6",
        "source": "resnet18",
        "source_layer": "layer1",
        "source_size": "32",
        "iterations": "6",
        "batch_size": "8",
        "lambda_k": "1.0",
        "lambda_m": "0.0",
        "lambda_c": "0.5",
        "lr": "0.001",
        "seed": "0",
        "licences": "CC0",
    }


def test_the_same_seed_gives_the_same_teacher(run, finished):
    expected = load_file(finished / "p17.safetensors")
    same, other = load_file(run()), load_file(run(seed=1))
    torch.testing.assert_close(same, expected, rtol=0, atol=0)
    assert not any(torch.equal(other[name], weight) for name, weight in expected.items())


def test_an_interrupted_run_that_is_resumed_equals_an_uninterrupted_one(run, finished, monkeypatch, tmp_path):
    with monkeypatch.context() as context:
        interrupt_at(context, TeacherPretraining, step=5)
        with pytest.raises(RuntimeError, match="power cut"):
            run()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    steps = record_steps(monkeypatch, TeacherPretraining, lambda module, _: module.global_step)
    resumed = run(resume=True)
    assert steps == [4, 5]
    assert_same_weights(resumed, finished / "p17.safetensors")
    assert read_metadata(resumed) == read_metadata(finished / "p17.safetensors")


def test_without_resume_a_run_starts_anew(run, finished, monkeypatch):
    with monkeypatch.context() as context:
        interrupt_at(context, TeacherPretraining, step=5)
        with pytest.raises(RuntimeError, match="power cut"):
            run(seed=1)
    assert_same_weights(run(), finished / "p17.safetensors")


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

    record_steps(monkeypatch, TeacherPretraining, stop)
    with pytest.raises(RuntimeError, match=r"Pretraining stopped after \d of 6 steps. Go on with --resume true"):
        run(checkpoint_every=4)
    assert not (tmp_path / "p17.safetensors").exists()


def test_the_learning_rate_decays_to_zero_along_a_cosine(run, monkeypatch):
    rates = record_steps(monkeypatch, TeacherPretraining, lambda module, _: module.optimizers().param_groups[0]["lr"])
    run()
    np.testing.assert_allclose(rates, [1e-2 * (1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)], rtol=1e-6)


def test_no_training_patch_comes_from_the_held_out_image(run, photographs, monkeypatch):
    split = []

    def keep(module, _):
        split[:] = module._train_images, module._held_out_images

    record_steps(monkeypatch, TeacherPretraining, keep)
    run(max_steps=1)
    train_images, held_out_images = split
    assert len(train_images) + 1 == len(list(photographs.iterdir()))
    assert len(held_out_images) == 1
    pixels = torch.cat([train_images.pixels, held_out_images.pixels]).unflatten(0, (6, -1))
    assert len(pixels.unique(dim=0)) == 6


def test_the_checkpoint_holds_nothing_of_the_source_network_or_the_images(finished):
    path = finished / "results" / "p17" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    parts = {name.split(".")[0] for name in checkpoint["state_dict"]}
    assert parts == {"teacher", "decoder", "target_mean", "target_std"}
    assert not {"source", "train_images", "held_out_images"} & checkpoint["hyper_parameters"].keys()
    n_weights = sum(weight.numel() for weight in checkpoint["state_dict"].values())
    # Weights and two moments of Adam, in single precision.
    assert path.stat().st_size < 12 * n_weights + 100_000


def test_checkpoints_and_logs_lie_in_the_results_folder_of_the_output(finished):
    folder = finished / "results" / "p17"
    assert [path.name for path in folder.glob("*.ckpt")] == ["last.ckpt"]
    assert list(folder.glob("tensorboard/*/events*"))
    with next(folder.glob("csv/*/metrics.csv")).open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["held_out_r2"]][:3] == ["1", "3", "5"]


def test_a_single_image_is_refused(run, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "a.png")
    with pytest.raises(ValueError, match=r"Pretraining needs at least 2 images, .*one has 1"):
        run(images=tmp_path / "one")


def test_triplets_need_a_different_image_in_both_parts(run, photographs, tmp_path):
    (tmp_path / "few").mkdir()
    for number in range(3):
        shutil.copy(photographs / f"{number}.png", tmp_path / "few")
    with pytest.raises(ValueError, match=r"with triplets \(lambda_m > 0\) needs at least 4 images, .*few has 3"):
        run(images=tmp_path / "few", lambda_m=1.0)
    shutil.copy(photographs / "3.png", tmp_path / "few")
    assert run(images=tmp_path / "few", lambda_m=1.0, max_steps=1).is_file()


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
    message = (
        "margin of the triplet loss must be greater than 0" if "margin" in weights else "must be at least 0, and not"
    )
    with pytest.raises(ValueError, match=message):
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

    def count(module, name, part):
        function = getattr(module, name)

        def call(*args, **kwargs):
            called.add(part)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    count(module, "distillation_loss", "distillation")
    count(module, "triplet_loss", "triplet")
    count(module, "compactness_loss", "compactness")
    count(sources.timm, "create_model", "distillation")
    steps = record_steps(
        monkeypatch,
        TeacherPretraining,
        lambda module, loss: (float(loss.detach()), {**module.trainer.callback_metrics}),
    )
    run(**weights, max_steps=1)
    assert called == computed
    ((loss, metrics),) = steps
    names = {"distillation": "lambda_k", "triplet": "lambda_m", "compactness": "lambda_c"}
    assert names.keys() & metrics.keys() == computed
    assert loss == pytest.approx(sum(weights[names[name]] * float(metrics[name]) for name in computed), rel=1e-5)


def test_a_teacher_learns_from_triplets_alone(run, tmp_path):
    path = run(max_steps=60, batch_size=32, lambda_k=0.0, lambda_m=1.0, lambda_c=0.01, checkpoint_every=1)
    metadata = read_metadata(path)
    assert metadata["source"] == "none"
    assert metadata["lambda_m"] == "1.0"
    assert metadata["margin"] == "1.0"
    assert "held_out_r2" not in metadata
    rows = read_metrics(tmp_path / "results")
    ordered = [float(row["held_out_triplets"]) for row in rows if row["held_out_triplets"]]
    assert float(metadata["held_out_triplets"]) == pytest.approx(ordered[-1], abs=1e-4)
    assert all(0 <= each <= 1 for each in ordered)


@pytest.mark.parametrize(("name", "value"), [("lambda_c", 0.3), ("seed", 5), ("lambda_m", 1.0)])
def test_a_run_is_not_resumed_with_other_settings(run, finished, name, value, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results")
    with pytest.raises(ValueError, match=rf"run to be resumed had other settings: {name}="):
        run(resume=True, **{name: value})
    assert not (tmp_path / "p17.safetensors").exists()


def test_a_finished_run_can_be_resumed_with_more_steps(run, finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "results", tmp_path / "results")
    rates = record_steps(monkeypatch, TeacherPretraining, lambda module, _: module.optimizers().param_groups[0]["lr"])
    assert read_metadata(run(resume=True, max_steps=8))["iterations"] == "8"
    # The first follows the schedule of the shorter run.
    assert len(rates) == 2
    assert rates[1] == pytest.approx(1e-2 * (1 + np.cos(np.pi * 7 / 8)) / 2)


def test_a_full_disk_leaves_the_older_teacher_and_no_half_of_a_new_one(run, monkeypatch, tmp_path):
    (tmp_path / "p17.safetensors").write_bytes(b"older")
    save = weights.save

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_on_a_full_disk(*args, **kwargs):
        monkeypatch.setattr(files.os, "fsync", fail)
        return save(*args, **kwargs)

    monkeypatch.setattr(weights, "save", save_on_a_full_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*p17\.safetensors"):
        run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p17.safetensors", "results"]
    assert (tmp_path / "p17.safetensors").read_bytes() == b"older"


@pytest.mark.parametrize("name", ["p17.pth", "p17", "folder.safetensors"])
def test_an_output_that_cannot_be_a_teacher_file_is_refused_at_once(run, name, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ValueError, match=rf"A teacher is written to a file named \*\.safetensors, not to .*{name}"):
        run(output=tmp_path / name, images=tmp_path / "not even looked for")


class TestCommandLine:
    def call(self, **options):
        cli.main(
            ["pretrain", *(f"--{name}={value}" if value != "" else f"--{name}" for name, value in options.items())]
        )

    def test_pretrain_writes_the_teacher_that_the_function_writes(self, settings, finished, tmp_path):
        self.call(**settings, output=tmp_path / "p17.safetensors", results=tmp_path / "results")
        assert_same_weights(tmp_path / "p17.safetensors", finished / "p17.safetensors")

    def test_a_printed_configuration_pretrains_the_same_teacher(self, settings, finished, tmp_path, capsys):
        with pytest.raises(SystemExit) as exit_:
            self.call(**settings, output=tmp_path / "p17.safetensors", results=tmp_path / "results", print_config="")
        assert exit_.value.code == 0
        (tmp_path / "pretrain.yaml").write_text(capsys.readouterr().out)
        cli.main(["pretrain", "--config", str(tmp_path / "pretrain.yaml")])
        assert_same_weights(tmp_path / "p17.safetensors", finished / "p17.safetensors")

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("images", "missing", "The image folder does not exist: missing"),
            ("source_checkpoint", "none.pth", "The checkpoint of the source network does not exist: none.pth"),
            ("patch_size", "19", "No architecture for patch size 19"),
            ("source_layer", "layer9", "resnet18 has no layer 'layer9'"),
            ("source", "resnet_18", "timm has no model named 'resnet_18'"),
            ("source", "resnet34", ".* lacks .* weights of resnet34"),
            ("lambda_m", "-1", "The loss weights must be at least 0"),
        ],
    )
    def test_an_error_is_one_line(self, option, value, message, settings, tmp_path, capfd):
        paths = {"output": tmp_path / "p17.safetensors", "results": tmp_path / "results"}
        with pytest.raises(SystemExit) as error:
            self.call(**{**settings, **paths, option: value})
        assert re.match(f"anomalib-students: {message}", str(error.value.code))
        assert "\n" not in str(error.value.code)
        assert "Traceback" not in capfd.readouterr().err
