"""A tiny inspection task in the layout of MVTec AD, and models small enough to train on it in seconds."""

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.cli import AnomalibCLI
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from PIL import Image

from anomalib_students.model.settings import PRESETS, Preset

SIDE = 72
SMALL = {"patch_sizes": (83,), "n_students": 2}


def small_model(side: int = 64, **arguments: Any) -> UninformedStudents:
    pre_processor = UninformedStudents.configure_pre_processor((side, side))
    return students(pre_processor=pre_processor, **{**SMALL, **arguments})


def students(preset: Preset = "default", **arguments: Any) -> UninformedStudents:
    """Model with settings that need not be its arguments."""
    parameters = signature(UninformedStudents).parameters
    others = {name: value for name, value in arguments.items() if name not in parameters}
    named = {name: value for name, value in arguments.items() if name in parameters}
    return UninformedStudents(replace(PRESETS[preset], **others), **named)


def small_engine(folder: Path, **arguments: Any) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", **{"max_epochs": 1, **arguments})


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a data set with the category ``dots``: stripes, with a bright square where they are defective."""
    root = tmp_path_factory.mktemp("data")
    write_category(root / "dots")
    return root


@pytest.fixture
def datamodule(data_root: Path) -> MVTec:
    """The tiny task as a data module with batches of two."""
    return MVTec(root=data_root, category="dots", train_batch_size=2, eval_batch_size=2, num_workers=0)


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small model."""
    engine = small_engine(tmp_path_factory.mktemp("trained"), max_epochs=2)
    engine.fit(small_model(lr=1e-3), datamodule=MVTec(root=data_root, category="dots", num_workers=0))
    return Path(engine.best_model_path)


@pytest.fixture
def anomalib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command of anomalib's in the test's folder, in this process: a new one imports for seconds."""

    def anomalib(*arguments: str | Path) -> None:
        monkeypatch.chdir(tmp_path)
        AnomalibCLI([str(argument) for argument in arguments])

    return anomalib


def write_category(category: Path, n_train: int = 6, mode: str = "RGB") -> None:
    """Write a category with ``n_train`` training images and two good and two defective test images."""
    random = np.random.default_rng(0)
    for index in range(n_train):
        _save(_texture(random), category / f"train/good/{index:03}.png", mode)
    for index in range(2):
        _save(_texture(random), category / f"test/good/{index:03}.png", mode)
        image, mask = _texture(random), np.zeros((SIDE, SIDE), np.uint8)
        image[20:32, 30 + 8 * index : 42 + 8 * index] = 255
        mask[20:32, 30 + 8 * index : 42 + 8 * index] = 255
        _save(image, category / f"test/square/{index:03}.png", mode)
        _save(mask, category / f"ground_truth/square/{index:03}_mask.png", "L")


def _texture(random: np.random.Generator) -> np.ndarray:
    stripes = 40 * np.sin((np.arange(SIDE) + random.integers(12)) * 2 * np.pi / 12)
    noise = random.normal(scale=3, size=(SIDE, SIDE, 3))
    return (100 + stripes[None, :, None] + noise).astype(np.uint8)


def _save(pixels: np.ndarray, path: Path, mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
