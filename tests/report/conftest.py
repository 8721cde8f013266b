"""A small inspection task, a model that was trained on it, and results to make pages of without a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from lightning.pytorch import seed_everything
from PIL import Image

from anomalib_students.model.settings import PRESETS
from anomalib_students.report.results import ImageResult
from tests.integration.conftest import write_category

SIDE = 48
"""Side of the images that the models see."""
SCRIPT = "<script>document.title = 'owned'<"
"""A folder as only an attacker names it; the page would get the slash that a folder cannot have."""


@pytest.fixture(scope="package")
def data_root(tmp_path_factory):
    """A category with the defects ``faint``, ``square`` and one with markup in its name, and four good test images."""
    root = tmp_path_factory.mktemp("data")
    category = root / "dots"
    write_category(category)
    for name in ("000", "001"):
        image = Image.open(category / "test" / "good" / f"{name}.png")
        image.rotate(180).save(category / "test" / "good" / f"{int(name) + 2:03}.png")
        # As bright as the stripes around them.
        defect = np.asarray(image).copy()
        defect[40:44, 20:26] += np.uint8(12)
        _save(defect, category / "test" / "faint" / f"{name}.png")
        mask = np.zeros(defect.shape[:2], np.uint8)
        mask[40:44, 20:26] = 255
        _save(mask, category / "ground_truth" / "faint" / f"{name}_mask.png")
    for part, name in (("test", "000.png"), ("ground_truth", "000_mask.png")):
        turned = Image.open(category / part / "square" / name).rotate(90)
        _save(np.asarray(turned), category / part / SCRIPT / name)
    return root


def _save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def datamodule(data_root):
    return MVTec(root=data_root, category="dots", train_batch_size=2, eval_batch_size=3, num_workers=0)


@pytest.fixture(scope="package")
def checkpoint(data_root, tmp_path_factory):
    """Checkpoint of a model that was trained for a few steps, and has its threshold from a held-out good image."""
    seed_everything(0)
    model = UninformedStudents(
        replace(PRESETS["default"], score_fraction=0.0),
        patch_sizes=(83,),
        pre_processor=UninformedStudents.configure_pre_processor((SIDE, SIDE)),
        visualizer=False,
    )
    datamodule = MVTec(root=data_root, category="dots", train_batch_size=2, eval_batch_size=3, num_workers=0)
    folder = tmp_path_factory.mktemp("trained")
    engine = Engine(default_root_dir=folder, accelerator="cpu", max_steps=20, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=datamodule)
    path = folder / "model.ckpt"
    engine.trainer.save_checkpoint(path)
    return path


@pytest.fixture
def model(checkpoint):
    return UninformedStudents.load_from_checkpoint(checkpoint)


def result(name, is_defective, score, is_alarm=None, seed=0, mask=None, has_map=True):
    """Result of an image of 40 x 40 pixels, with a random map, and a marked square if it is defective."""
    generator = torch.Generator().manual_seed(seed)
    if mask is None:
        mask = torch.zeros(40, 40, dtype=torch.bool)
        mask[10:20, 10:20] = is_defective
    scores = torch.rand(40, 40, generator=generator) + mask * torch.rand(40, 40, generator=generator)
    return ImageResult(
        path=Path("data/test") / f"{name}.png",
        is_defective=is_defective,
        score=score,
        is_alarm=is_alarm,
        picture=np.full((40, 40, 3), 100, np.uint8),
        anomaly_map=scores if has_map else None,
        mask=mask if has_map else None,
    )


@pytest.fixture
def results():
    """Results of four good images and of five with two types of defects, decided at 0.5."""
    scores = {
        "good": (0.1, 0.4, 0.45, 0.7),
        "crack": (0.9, 0.55, 0.3),
        "dent": (0.8, 0.42),
    }
    return [
        result(f"{kind}/{number:03}", kind != "good", score, score > 0.5, seed=10 * len(kind) + number)
        for kind, values in scores.items()
        for number, score in enumerate(values)
    ]
