"""Distillation from whole images on a few small photographs, with a source network of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from anomalib_students.teacher import distil as module
from anomalib_students.teacher import sources
from anomalib_students.teacher.distil import (
    Distillation,
    DistilSettings,
    draw_crops,
    principal_components,
    valid_points,
)

from .conftest import DISTIL

TASK = DISTIL

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory"),
    pytest.mark.usefixtures("cheap"),
]


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
    features = torch.cat(blocks, dim=1).movedim(1, -1).reshape(-1, 9).double()
    # All points of all crops are the sample here.
    features -= features.mean(dim=0)
    matrix = principal_components(features.T @ features / len(features), [3, 3, 3], [1.0, 1.0, 1.0], 4)
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
    for flipped, plain in ((crops, originals), (targets, distillation.targets(originals).half())):
        torch.testing.assert_close(flipped, torch.where(is_flipped, plain.flip(-1), plain))


@pytest.mark.parametrize("most_kept", [5000, 0])
def test_targets_are_computed_once_for_the_crops_that_are_kept(most_kept, run, monkeypatch):
    computed, targets = [], Distillation.targets

    def count(module, crops):
        computed.extend(crops if module.training else ())
        return targets(module, crops)

    monkeypatch.setattr(module, "MOST_KEPT", most_kept)
    monkeypatch.setattr(Distillation, "targets", count)
    run()
    batches = [{*draw_crops(10, 4, seed=0, number=number)[0]} for number in range(6)]
    assert len(computed) == (10 if most_kept else sum(map(len, batches)))


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
    ("architecture", "patch_size", "dim"), [("paper", 17, 8), ("paper", 33, 8), ("paper", 65, 8), ("lean", 83, 88)]
)
def test_each_descriptor_is_that_of_its_patch(architecture, patch_size, dim, monkeypatch):
    """The patch around the pixel (4 i + 2, 4 j + 2) for the point (i, j)."""
    monkeypatch.setattr(module, "start_from", lambda *_: None)
    distillation = create_module(monkeypatch, patch_size=patch_size, descriptor_dim=dim, architecture=architecture)
    crops = torch.randint(256, (1, 3, 144, 144), dtype=torch.uint8)
    points = torch.cartesian_prod(torch.arange(36), torch.arange(36)).T.reshape(1, 2, 36, 36).half()
    # As many targets as components that are learnt.
    descriptors, described = distillation.predict(crops, points.repeat(1, 4, 1, 1))
    border = patch_size // 2
    for row, column in [(0, 0), (1, 4), (-1, -1), (3, -2)]:
        y, x = (4 * described[0, :2, row, column] + 2).int().tolist()
        patch = normalise(crops[..., y - border : y + border + 1, x - border : x + border + 1])
        expected = distillation.teacher(patch)[:, -8:, 0, 0]
        torch.testing.assert_close(descriptors[..., row, column], expected, rtol=1e-4, atol=1e-5)
