"""A tiny inspection task in the layout of MVTec AD, and models small enough to train on it in seconds."""

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import MVTec
from PIL import Image

SIDE = 72


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
