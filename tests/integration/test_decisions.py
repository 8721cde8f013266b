"""Thresholds come from held-out good images, in trainings with and without anomalous ones, and stay with the model."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from PIL import Image
from torchvision.transforms.v2 import ColorJitter

from anomalib_students import FalseAlarmPostProcessor
from anomalib_students.false_alarms import fit_gumbel, is_usual, margin
from anomalib_students.model.hold_out import split_indices
from anomalib_students.model.merge import merge_scales
from anomalib_students.model.settings import PRESETS
from anomalib_students.model.student_teacher import UNFOCUSED

from .conftest import write_category

N_TRAINING = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a data set with the category ``dots``."""
    root = tmp_path_factory.mktemp("many")
    write_category(root / "dots", n_train=N_TRAINING)
    return root


def small_model(**arguments) -> UninformedStudents:
    settings = {"patch_sizes": (83,), "visualizer": False}
    pre_processor = UninformedStudents.configure_pre_processor((48, 48))
    preset = replace(PRESETS["default"], score_fraction=0.05)
    return UninformedStudents(preset, pre_processor=pre_processor, **{**settings, **arguments})


def train(model: UninformedStudents, datamodule: MVTec | Folder, folder: Path) -> Engine:
    engine = Engine(default_root_dir=folder, max_epochs=3, accelerator="cpu", logger=False)
    engine.fit(model, datamodule=datamodule)
    return engine


def test_good_images_alone_decide(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of good images and nothing else: the threshold stands, is said, and decides."""
    datamodule = Folder("parts", root=root / "dots", normal_dir="train/good", num_workers=0, train_batch_size=2)
    model = small_model()
    with caplog.at_level(logging.INFO):
        engine = train(model, datamodule, tmp_path)
    decision = model.post_processor.decision
    assert decision.rule == "normal"
    assert decision.n_images >= 4
    assert str(decision) in caplog.text
    predictions = engine.predict(model, data_path=root / "dots" / "test")
    scores, labels = (torch.cat([getattr(each, name) for each in predictions]) for name in ("pred_score", "pred_label"))
    assert ((scores > 0) & (scores < 1)).all()
    assert torch.equal(labels, scores > 0.5)


def test_test_images_have_no_part(root: Path, tmp_path: Path) -> None:
    """Though they are MVTec's validation images: with other ones, the thresholds are the same to the last bit."""
    shutil.copytree(root, tmp_path / "other")
    shutil.copy(root / "dots/test/square/000.png", tmp_path / "other/dots/test/good/000.png")
    states = []
    for folder in (root, tmp_path / "other"):
        torch.manual_seed(0)
        model = small_model()
        train(model, MVTec(root=folder, category="dots", num_workers=0, train_batch_size=2), tmp_path / "run")
        states.append(model.post_processor.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_merged_model_decides_by_its_own_scores(root: Path, tmp_path: Path) -> None:
    datamodule = MVTec(root=root, category="dots", num_workers=0, train_batch_size=2)
    models = [small_model(patch_sizes=(size,)) for size in (83, 167)]
    for model in models:
        train(model, datamodule, tmp_path)
    merged = merge_scales(models)
    assert merged.post_processor.decision is None
    Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False).validate(merged, datamodule=datamodule)

    scores = []
    training, held_out = split_indices(N_TRAINING, 0.1)
    # As many of the images that were learnt from show the spread too.
    for indices in (held_out, training[::3]):
        images = torch.stack([datamodule.train_data[index].image for index in indices])
        with torch.no_grad():
            found = merged.eval().model(merged.pre_processor.transform(images)).pred_score
        scores.append(found[is_usual(found)])
    fitted = fit_gumbel(*scores)
    expected = fitted.location + margin(len(scores[0]), 0.01, len(scores[1])).scales * fitted.scale
    assert merged.post_processor.image_threshold == pytest.approx(expected, rel=1e-4)
    assert merged.post_processor.pixel_threshold == merged.post_processor.image_threshold


def test_a_defective_image_among_the_good_ones_is_named(root: Path, tmp_path: Path) -> None:
    """If it is held out, it would raise the threshold."""
    shutil.copytree(root, tmp_path / "data")
    write_category(tmp_path / "data" / "dots", n_train=40)
    held_out = split_indices(40, 0.1)[1][0]
    path = tmp_path / "data" / "dots" / "train" / "good" / f"{held_out:03}.png"
    # Noise, which is far from all others whatever so few steps have learnt.
    noise = np.random.default_rng(0).integers(256, size=(72, 72, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    datamodule = MVTec(root=tmp_path / "data", category="dots", num_workers=0, train_batch_size=2)
    model = small_model()
    with pytest.warns(UserWarning, match=rf"{path}\. See whether they are good\. They do not count"):
        train(model, datamodule, tmp_path)
    assert model.post_processor.decision.n_images == 9


def test_errors_are_weighed_only_where_there_are_thirty_images_to_learn_from(root: Path, tmp_path: Path) -> None:
    scales = []
    for n_train in (38, 39):  # Of which 9 are held out.
        write_category(tmp_path / str(n_train) / "dots", n_train=n_train)
        model = small_model()
        train(model, MVTec(root=tmp_path / str(n_train), category="dots", num_workers=0), tmp_path)
        scales += model.model.scales
    few, enough = scales
    assert torch.equal(few.error_weighting, torch.eye(208))
    assert torch.equal(few.error_pattern, torch.ones(40, 40))
    assert few.softening == UNFOCUSED
    assert 1 <= enough.softening < 1000
    assert not torch.allclose(enough.error_weighting.T @ enough.error_weighting, torch.eye(208), atol=0.1)
    assert float(enough.error_pattern.mean()) == pytest.approx(1, abs=1e-4)
    assert enough.error_pattern.std() > 0.01


def test_held_out_images_are_not_augmented(root: Path, tmp_path: Path) -> None:
    """Augmented only in the training, an image of another brightness must count as one."""
    datamodule = MVTec(
        root=root, category="dots", num_workers=0, train_batch_size=2, train_augmentations=ColorJitter(brightness=0.9)
    )
    model = small_model()
    seen = []
    calibrate = model._calibrate

    def record() -> None:
        training = model.hold_out.training
        seen.extend(torch.equal(each[0].image, each[0].image) for each in model.hold_out.samples for _ in range(5))
        assert not torch.equal(training[0].image, training[0].image)
        calibrate()

    model._calibrate = record
    train(model, datamodule, tmp_path)
    assert seen
    assert all(seen)


def test_the_rate_and_the_rule_are_arguments(root: Path, tmp_path: Path) -> None:
    """F1 needs anomalous validation images, which MVTec has; and a rate can be named after the training."""
    datamodule = MVTec(root=root, category="dots", num_workers=0, train_batch_size=2)
    model = small_model(post_processor=FalseAlarmPostProcessor("f1"))
    engine = train(model, datamodule, tmp_path)
    assert model.post_processor.decision.rule == "f1"
    chosen = small_model(teacher=None, post_processor=FalseAlarmPostProcessor("normal", false_alarm_rate=0.2))
    engine.validate(chosen, datamodule=datamodule, ckpt_path=engine.best_model_path)
    decision = chosen.post_processor.decision
    assert (decision.rule, decision.false_alarm_rate, decision.n_images) == ("normal", 0.2, N_TRAINING // 4)
