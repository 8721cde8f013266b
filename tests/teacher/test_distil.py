"""Distillation from whole images on a few small photographs, with a source network of random weights."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from anomalib_students import cli
from anomalib_students.networks import patch_network
from anomalib_students.networks.weights import load_teacher, read_metadata
from anomalib_students.teacher import distil as module
from anomalib_students.teacher import sources
from anomalib_students.teacher.distil import (
    Distillation,
    DistilSettings,
    distil,
    draw_crops,
    principal_components,
    valid_points,
)

from .conftest import assert_same_weights, interrupt_at, record_steps

ARCHITECTURES = patch_network.ARCHITECTURES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory"),
    pytest.mark.usefixtures("cheap"),
]


@pytest.fixture(scope="module")
def settings(photographs, resnet18_checkpoint):
    return {
        "images": photographs,
        "patch_size": 17,
        "descriptor_dim": 8,
        "architecture": "light",
        "sources": {"resnet18": resnet18_checkpoint},
        "crop_side": 40,
        "components": 12,
        "max_steps": 6,
        "batch_size": 4,
        "accelerator": "cpu",
        "checkpoint_every": 2,
        "trainer_arguments": {"enable_progress_bar": False},
    }


@pytest.fixture(scope="module")
def finished(cheap, settings, tmp_path_factory):
    """Folder of a run that nothing has interrupted: its teacher, and its results."""
    folder = tmp_path_factory.mktemp("finished")
    distil(**settings, output=folder / "teacher.safetensors", results=folder / "results")
    return folder


@pytest.fixture
def run(settings, tmp_path):
    """Distil a teacher in a few steps; keyword arguments replace the settings."""

    def run(**changes):
        return distil(
            **{**settings, "output": tmp_path / "teacher.safetensors", "results": tmp_path / "results", **changes}
        )

    return run


def test_a_teacher_file_is_written_and_says_where_it_comes_from(finished):
    path = finished / "teacher.safetensors"
    network = load_teacher(path, patch_size=17, descriptor_dim=8, architecture="light")
    assert network(torch.rand(2, 3, 17, 17)).shape == (2, 8, 1, 1)
    metadata = read_metadata(path)
    assert float(metadata.pop("held_out_r2")) <= 1
    assert 1 <= float(metadata.pop("effective_dimension")) <= 8
    assert metadata.pop("made_with").startswith("anomalib-students ")
    assert metadata == {
        "teacher_format": "1",
        "task": "distillation from whole images",
        "patch_size": "17",
        "descriptor_dim": "8",
        "architecture": "light",
        "data": "pictures",
        "n_images": "6",
        "source": "resnet18",
        "source_weights": "1.0",
        "crops": "2",
        "crop_side": "40",
        "components": "12",
        "iterations": "6",
        "batch_size": "4",
        "lr": "0.001",
        "seed": "0",
        "licences": "unknown",
    }


def test_checkpoints_and_logs_lie_in_the_results_folder(finished):
    folder = finished / "results"
    assert [path.name for path in folder.glob("teacher/*.ckpt")] == ["last.ckpt"]
    assert list(folder.glob("teacher/tensorboard/*/events*"))
    with next(folder.glob("teacher/csv/*/metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["held_out_r2"]]
    assert [row["step"] for row in rows][:3] == ["1", "3", "5"]
    assert all(row["effective_dimension"] for row in rows)


def test_the_checkpoint_holds_nothing_of_the_sources_or_the_crops(finished):
    checkpoint = torch.load(finished / "results" / "teacher" / "last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"teacher", "mean", "matrix"}


def test_an_interrupted_run_that_is_resumed_equals_an_uninterrupted_one(run, finished, monkeypatch):
    with monkeypatch.context() as context:
        interrupt_at(context, Distillation, step=5)
        with pytest.raises(RuntimeError, match="power cut"):
            run()
    steps = record_steps(monkeypatch, Distillation, lambda module, _: module.global_step)
    resumed = run(resume=True)
    assert steps == [4, 5]
    assert_same_weights(resumed, finished / "teacher.safetensors")
    assert read_metadata(resumed) == read_metadata(finished / "teacher.safetensors")


@pytest.mark.parametrize(("name", "value"), [("lr", 1e-2), ("batch_size", 2), ("crops", 1), ("patch_size", 33)])
def test_a_run_is_not_resumed_with_other_settings(run, finished, name, value, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="run to be resumed had other settings: "):
        run(resume=True, **{name: value})
    assert not (tmp_path / "teacher.safetensors").exists()


def test_the_learning_rate_rises_and_falls(run, monkeypatch):
    rates = record_steps(monkeypatch, Distillation, lambda module, _: module.optimizers().param_groups[0]["lr"])
    run(lr=1.0)
    expected = [(step + 1) / 200 * (1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def call(tmp_path, settings, **changes):
    options = {**settings, "output": tmp_path / "t.safetensors", "results": tmp_path / "results", **changes}
    sources = options.pop("sources")
    options.pop("trainer_arguments")
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return ["distil", *arguments, *(f"--sources.{name}={path}" for name, path in sources.items())]


def test_the_command_distils(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(patch_network, "ARCHITECTURES", ARCHITECTURES)
    cli.main(call(tmp_path, settings, max_steps=2))
    assert "Reading images" in capsys.readouterr().out
    assert read_metadata(tmp_path / "t.safetensors")["iterations"] == "2"
    # Here the network isn't narrow.
    assert load_file(tmp_path / "t.safetensors")["convolutions.0.weight"].shape == (32, 3, 4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "missing"}, "The image folder does not exist: missing"),
        ({"output": "teacher.pth"}, r"A teacher is written to a file named \*.safetensors"),
        ({"patch_size": 19}, "No architecture for patch size 19"),
        ({"patch_size": 65}, "A crop of 40 pixels has no room for a patch of 65 pixels"),
        ({"crop_side": 44}, "crop_side must be divisible by 8, got 44"),
        ({"crops": 0}, "crops must be at least 1, got 0"),
        ({"descriptor_dim": 13}, "descriptor_dim must be at most the number of components, 12, got 13"),
        ({"sources": {"resnet_18": "null"}}, "timm has no model named 'resnet_18'"),
        ({"sources": {"resnet18": "none.pth"}}, "The checkpoint of the source network does not exist: none.pth"),
    ],
)
def test_an_error_is_one_line_before_anything_is_computed(changes, message, settings, tmp_path, capfd):
    assert_one_line(call(tmp_path, settings, **changes), message, capfd)
    assert not (tmp_path / "results").exists()


def test_incomplete_weights_are_refused(settings, tmp_path, capfd):
    state = load_file(settings["sources"]["resnet18"])
    state.pop("layer3.0.conv1.weight")
    save_file(state, tmp_path / "short.safetensors")
    sources = {"resnet18": tmp_path / "short.safetensors"}
    assert_one_line(call(tmp_path, settings, sources=sources), ".*short.safetensors lacks 1 weights of resnet18", capfd)


def test_a_damaged_or_single_image_is_refused(settings, photographs, tmp_path, capfd):
    folder = tmp_path / "few"
    folder.mkdir()
    shutil.copy(photographs / "0.png", folder)
    assert_one_line(call(tmp_path, settings, images=folder), "Distillation needs at least 2 images, .*has 1", capfd)
    (folder / "1.png").write_text("no image")
    assert_one_line(call(tmp_path, settings, images=folder), r"Cannot read .*1\.png as an image", capfd)


def assert_one_line(arguments, message, capfd):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert re.match(f"anomalib-students: {message}", str(error.value.code)), error.value.code
    assert "\n" not in str(error.value.code)
    assert "Traceback" not in capfd.readouterr().err


class MeanColours(torch.nn.Module):
    """A source whose features are the mean colours of squares of pixels."""

    channels = (3, 3)

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, stride) for stride in (8, 16)]


def create_module(monkeypatch, crops=None, **settings):
    for each in (module, sources):
        monkeypatch.setattr(each, "has_bfloat16", lambda device: False)
    task = DistilSettings(images=Path(), output=Path(), sources={"colours": None}, **settings)
    return Distillation(task, [MeanColours()], torch.zeros(1, 1, 3, 96, 96) if crops is None else crops)


@pytest.mark.parametrize("n_components", [1, 3, 5])
def test_principal_components_are_those_of_weighted_blocks_of_equal_variance(n_components):
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 5)) @ random.normal(size=(5, 5)) * [100, 100, 100, 0.01, 0.01]
    features -= features.mean(0)
    covariance = torch.from_numpy(features.T @ features / 200)
    components = features @ principal_components(covariance, [3, 2], [1.0, 0.7], n_components).double().numpy()

    blocks = (features[:, :3], features[:, 3:])
    scaled = np.concatenate([block / np.sqrt((block**2).sum(1).mean()) for block in blocks], axis=1)
    scaled[:, 3:] *= 0.7
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    variances = singular[:n_components] ** 2 / 200
    expected = scaled @ directions[:n_components].T / np.sqrt(variances + 0.1 * variances.mean())
    # The sign of a component is open.
    np.testing.assert_allclose(components * np.sign((components * expected).sum(0)), expected, atol=1e-3)


def test_features_that_do_not_vary_are_no_reason_to_fail():
    assert principal_components(torch.zeros(5, 5).double(), [3, 2], [1.0, 0.7], 5).isfinite().all()


def test_targets_are_the_whitened_components_of_the_features(monkeypatch):
    crops = torch.randint(256, (6, 2, 3, 32, 32), dtype=torch.uint8)
    distillation = create_module(monkeypatch, crops, crop_side=32, components=4, descriptor_dim=3)
    distillation.measure_sources(torch.device("cpu"))
    targets = distillation.targets(crops.flatten(0, 1))
    assert targets.shape == (12, 3, 8, 8)

    blocks = sources.feature_blocks([MeanColours()], crops.flatten(0, 1))
    features = torch.cat(blocks, dim=1).movedim(1, -1).reshape(-1, 6).double()
    # All points of all crops are the sample here.
    features -= features.mean(dim=0)
    matrix = principal_components(features.T @ features / len(features), [3, 3], [1.0, 1.0], 4)
    expected = (features @ matrix.double())[:, :3]
    computed = targets.movedim(1, -1).reshape(-1, 3).double()
    signs = (computed * expected).sum(dim=0).sign()
    torch.testing.assert_close(computed * signs, expected, atol=1e-3, rtol=0)


def test_no_crop_for_training_comes_from_a_photograph_that_is_held_out(monkeypatch):
    distillation = create_module(monkeypatch, torch.zeros(50, 3, 3, 32, 32, dtype=torch.uint8))
    # 5 % of the photographs, all over the folder.
    assert distillation.held_out_indices == [0, 1, 2, 75, 76, 77]
    assert sorted(distillation.train_indices + distillation.held_out_indices) == list(range(150))


def test_each_crop_is_drawn_once_before_any_is_drawn_again():
    first, second = (
        [index for number in numbers for index in draw_crops(15, 5, seed=0, number=number)[0]]
        for numbers in (range(3), range(3, 6))
    )
    assert sorted(first) == sorted(second) == list(range(15))
    assert first != second
    np.testing.assert_array_equal(np.bincount(draw_crops(15, 30, seed=0, number=0)[0]), 2)
    assert draw_crops(15, 5, seed=1, number=0)[0] != first[:5]


def test_two_processes_draw_the_shares_of_one_batch():
    shares = [draw_crops(15, 2, seed=0, number=3, rank=rank, world_size=2) for rank in range(2)]
    indices, is_flipped = draw_crops(15, 4, seed=0, number=3)
    assert shares[0][0] + shares[1][0] == indices
    assert torch.equal(torch.cat([shares[0][1], shares[1][1]]), is_flipped)


def test_crops_and_targets_are_flipped_together(run, monkeypatch):
    batches, predict = [], Distillation.predict

    def keep(module, crops, targets):
        if module.training:
            batches.append((module, crops, targets))
        return predict(module, crops, targets)

    monkeypatch.setattr(Distillation, "predict", keep)
    run(max_steps=2)
    distillation, crops, targets = batches[1]
    indices, is_flipped = draw_crops(10, 4, seed=0, number=1)
    assert 0 < is_flipped.sum() < 4
    originals = distillation.crops[[distillation.train_indices[index] for index in indices]]
    for flipped, plain in ((crops, originals), (targets, distillation.targets(originals))):
        torch.testing.assert_close(flipped, torch.where(is_flipped, plain.flip(-1), plain))


def normalise(crops):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (crops / 255 - mean) / std


@pytest.mark.parametrize("patch_size", [17, 33, 65])
@pytest.mark.parametrize("side", [72, 80, 192])
def test_all_patches_that_lie_within_the_crop_are_described(side, patch_size):
    points, pixels = valid_points(side, patch_size)
    border = patch_size // 2
    inside = [point for point in range(side // 4) if border <= 4 * point + 2 < side - border]
    assert list(range(points.start, points.stop)) == inside
    assert pixels.start == 4 * inside[0] + 2 - border >= 0
    assert pixels.stop == 4 * inside[-1] + 2 + border + 1 <= side


@pytest.mark.parametrize(
    ("architecture", "patch_size"), [(name, size) for name, sizes in ARCHITECTURES.items() for size in sizes]
)
def test_each_descriptor_is_that_of_its_patch(architecture, patch_size, monkeypatch):
    """The patch around the pixel (4 i + 2, 4 j + 2) for the point (i, j)."""
    distillation = create_module(monkeypatch, patch_size=patch_size, descriptor_dim=8, architecture=architecture)
    crops = torch.randint(256, (1, 3, 96, 96), dtype=torch.uint8)
    points = torch.cartesian_prod(torch.arange(24), torch.arange(24)).T.reshape(1, 2, 24, 24).half()
    descriptors, described = distillation.predict(crops, points)
    border = patch_size // 2
    for row, column in [(0, 0), (1, 4), (-1, -1), (3, -2)]:
        y, x = (4 * described[0, :, row, column] + 2).int().tolist()
        patch = normalise(crops[..., y - border : y + border + 1, x - border : x + border + 1])
        expected = distillation.teacher(patch)[..., 0, 0]
        torch.testing.assert_close(descriptors[..., row, column], expected, rtol=1e-4, atol=1e-5)
