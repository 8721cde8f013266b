"""Every Python block of the documents runs, on a tiny data set and with a tiny model."""

import os
from shutil import copy2

import numpy as np
import pytest
from anomalib.deploy import ExportType
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_students.model import training

from ..reliability.small import small_data, small_engine, small_model
from .documents import blocks

SIDE = 72


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the blocks read: good parts, bad ones, a new image, exported models and checkpoints."""
    folder = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    paths = [f"path/to/parts/good/{number}.png" for number in range(6)]
    paths += [f"path/to/parts/bad/{number}.png" for number in range(2)]
    for path in (*paths, "path/to/new_images/part.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = 100 + random.normal(scale=10, size=(SIDE, SIDE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
    for patch_size in (83, 167):
        engine = small_engine(folder / "runs")
        model = small_model(
            patch_sizes=(patch_size,), pre_processor=AnomalibModule.configure_pre_processor((SIDE, SIDE))
        )
        engine.fit(model, datamodule=small_data(folder / "data"))
        engine.trainer.save_checkpoint(folder / f"p{patch_size}.ckpt")
    engine.trainer.save_checkpoint(folder / "path" / "to" / "model.ckpt")
    for export_type in (ExportType.OPENVINO, ExportType.TORCH):
        engine.export(model, export_type, export_root=folder / "exported")
    for file in (folder / "exported" / "weights" / "openvino").glob("model.*"):
        copy2(file, folder / "exported")
    return folder


@pytest.fixture(autouse=True)
def _small(place, monkeypatch):
    """Images of 72 pixels and one step of training, where the blocks leave both to the defaults."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(training, "TRAINING_IMAGES", 1)
    small = AnomalibModule.configure_pre_processor((SIDE, SIDE))
    monkeypatch.setattr(AnomalibModule, "configure_pre_processor", staticmethod(lambda image_size=None: small))
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.place)
def test_block_runs(block, capsys):
    exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    if "print(" in block.text:
        assert capsys.readouterr().out.strip()
