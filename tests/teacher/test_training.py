"""What is the same of pretraining and distillation: the teacher's file, checkpoints, resumption, and errors."""

import csv
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anomalib_students import cli
from anomalib_students.networks.weights import load_teacher, read_metadata

from .conftest import DISTIL, PRETRAIN, assert_same_weights, record_steps

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory")


@pytest.fixture(scope="module", params=[PRETRAIN, DISTIL], ids=["pretrain", "distil"])
def task(request):
    return request.param


def test_a_teacher_file_is_written_and_says_where_it_comes_from(task, finished):
    path = finished / "p17.safetensors"
    metadata = read_metadata(path)
    assert float(metadata.pop("held_out_r2")) <= 1
    assert metadata.pop("made_with").startswith("anomalib-students ")
    own = {
        PRETRAIN: {"source_layer": "layer1", "source_size": "32", "lambda_k": "1.0", "lambda_m": "0.0"}
        | {"lambda_c": "1.0", "architecture": "paper", "batch_size": "8", "lr": "0.01"},
        DISTIL: {"task": "distillation from whole images", "source_weights": "1.0", "crops": "2", "crop_side": "40"}
        | {"components": "12", "architecture": "paper", "batch_size": "4", "lr": "0.01"},
    }[task]
    assert metadata == {
        "teacher_format": "1",
        "patch_size": "17",
        "descriptor_dim": "8",
        "data": "pictures",
        "n_images": "6",
        "source": "resnet18",
        "iterations": "6",
        "seed": "0",
        "licences": "unknown",
        **own,
    }
    network = load_teacher(path, 17, 8, metadata["architecture"])
    assert network(torch.rand(2, 3, 17, 17)).shape == (2, 8, 1, 1)


def test_checkpoints_and_logs_lie_in_the_results_folder_and_hold_nothing_of_sources_or_images(task, finished):
    folder = finished / "results" / "p17"
    assert list(folder.glob("tensorboard/*/events*"))
    with next(folder.glob("csv/*/metrics.csv")).open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["held_out_r2"]][:3] == ["1", "3", "5"]
    (path,) = folder.glob("*.ckpt")
    assert path.name == "last.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    own = {PRETRAIN: {"teacher", "decoder", "target_mean", "target_std"}, DISTIL: {"teacher", "mean", "matrix"}}[task]
    assert {name.split(".")[0] for name in state} == own
    # Weights and two moments of Adam at most, in single precision.
    assert path.stat().st_size < 12 * sum(weight.numel() for weight in state.values()) + 100_000


@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupted_run_is_resumed_or_started_anew(resume, task, run, finished, monkeypatch, tmp_path):
    def interrupt(module, _):
        if module.global_step == 5:
            raise RuntimeError("power cut")

    with monkeypatch.context() as context:
        record_steps(context, task, interrupt)
        with pytest.raises(RuntimeError, match="power cut"):
            run(seed=0 if resume else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    steps = record_steps(monkeypatch, task, lambda module, _: module.global_step)
    made = run(resume=resume)
    assert steps == ([4, 5] if resume else [*range(6)])
    assert_same_weights(made, finished / "p17.safetensors")
    assert read_metadata(made) == read_metadata(finished / "p17.safetensors")


@pytest.mark.parametrize("name", ["lr", "seed", "batch_size", "lambda_c or crops"])
def test_a_run_is_not_resumed_with_other_settings(task, run, finished, name, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results")
    name = name.split(" or ")[task is DISTIL] if " or " in name else name
    with pytest.raises(ValueError, match=rf"run to be resumed had other settings: {name}="):
        run(resume=True, **{name: 5})
    assert not (tmp_path / "p17.safetensors").exists()


def test_the_learning_rate_rises_and_decays_along_a_cosine(task, run, monkeypatch):
    rates = record_steps(monkeypatch, task, lambda module, _: module.optimizers().param_groups[0]["lr"])
    run(lr=1.0)
    expected = (1 + np.cos(np.pi * np.arange(6) / 6)) / 2
    np.testing.assert_allclose(rates, expected * (1 if task is PRETRAIN else np.arange(1, 7) / 200), rtol=1e-6)


def test_the_command_makes_the_same_teacher_and_so_does_a_configuration_that_it_prints(
    task, call, finished, tmp_path, capsys
):
    with pytest.raises(SystemExit) as exit_:
        call("--print_config")
    assert exit_.value.code == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    call()
    assert "Reading images" in capsys.readouterr().out
    assert_same_weights(tmp_path / "p17.safetensors", finished / "p17.safetensors")
    (tmp_path / "p17.safetensors").unlink()
    cli.main([task.make.__name__, "--config", str(tmp_path / "config.yaml")])
    assert_same_weights(tmp_path / "p17.safetensors", finished / "p17.safetensors")


SHARED = [
    ({"images": "missing"}, "The image folder missing does not exist."),
    ({"images": "few"}, ".* needs at least 2 images, .*few has 1"),
    ({"images": "damaged"}, r"Cannot read .*1\.png as an image"),
    ({"output": "teacher.pth"}, r"A teacher is written to a file named \*.safetensors, not to teacher.pth"),
    ({"output": "folder.safetensors"}, r"A teacher is written to a file named \*.safetensors, not to folder"),
    ({"patch_size": 19}, ".* has no network for patch size 19"),
]
MESSAGES = [
    *((task, *row) for task in (PRETRAIN, DISTIL) for row in SHARED),
    (PRETRAIN, {"source_checkpoint": "none.pth"}, "The checkpoint of the source network does not exist: none.pth"),
    (PRETRAIN, {"source_layer": "layer9"}, "resnet18 has no layer 'layer9'"),
    (PRETRAIN, {"source": "resnet_18"}, "timm has no model named 'resnet_18'"),
    (PRETRAIN, {"source": "resnet34"}, ".* lacks .* weights of resnet34"),
    (PRETRAIN, {"lambda_m": -1}, "The loss weights must be at least 0"),
    (PRETRAIN, {"images": "few", "lambda_m": 1}, r".*with triplets \(lambda_m > 0\) needs at least 4 images"),
    (DISTIL, {"patch_size": 65}, "A crop of 40 pixels has no room for a patch of 65 pixels"),
    (DISTIL, {"crop_side": 44}, "crop_side must be divisible by 8, got 44"),
    (DISTIL, {"crops": 0}, "crops must be at least 1, got 0"),
    (DISTIL, {"descriptor_dim": 13}, "descriptor_dim asks for 13 components, of which there are 12"),
    (DISTIL, {"sources": {"resnet_18": "null"}}, "timm has no model named 'resnet_18'"),
    (DISTIL, {"sources": {"resnet18": "none.pth"}}, "The checkpoint of the source network does not exist: none.pth"),
    (DISTIL, {"sources": {"resnet18": "short.safetensors"}}, ".*short.safetensors lacks 1 weights of resnet18"),
]


@pytest.mark.parametrize(("task", "changes", "message"), MESSAGES, indirect=["task"])
def test_an_error_is_one_line_before_anything_is_computed(
    changes, message, call, photographs, resnet18_checkpoint, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    for folder in ("few", "damaged", "folder.safetensors"):
        (tmp_path / folder).mkdir()
        shutil.copy(photographs / "0.png", tmp_path / folder)
    (tmp_path / "damaged" / "1.png").write_text("no image")
    state = load_file(resnet18_checkpoint)
    state.pop("layer3.0.conv1.weight")
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(SystemExit) as error:
        call(**changes)
    assert re.match(f"anomalib-students: {message}", str(error.value.code)), error.value.code
    assert "\n" not in str(error.value.code)
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "results").exists()
