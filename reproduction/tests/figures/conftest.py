"""Data with two types of defects, and small models with random weights, as trained ones are stored."""

import pytest
import torch
from anomalib.data import MVTec
from anomalib.models import UninformedStudents
from lightning.pytorch import Trainer
from PIL import Image

from anomalib_students.model.lightning_model import PAPER
from tests.integration.conftest import write_category

SIDE = 48
"""Side of the images that the models see."""


@pytest.fixture(scope="package")
def data_root(tmp_path_factory):
    """A category with the defects ``round`` (one image) and ``square`` (two), and two good test images."""
    root = tmp_path_factory.mktemp("data")
    category = root / "dots"
    write_category(category, n_train=1)
    for folder, name in (("test", "000.png"), ("ground_truth", "000_mask.png")):
        (category / folder / "round").mkdir()
        Image.open(category / folder / "square" / name).rotate(90).save(category / folder / "round" / name)
    return root


@pytest.fixture
def datamodule(data_root):
    return MVTec(root=data_root, category="dots", num_workers=0)


def make_model(patch_sizes, **arguments):
    """Model whose statistics are those of no scores, so that a score that leaves one out is another."""
    small = {"patch_sizes": patch_sizes, "n_students": 2, "output_stride": 8, "teacher": None, "descriptor_dim": 8}
    pre_processor = UninformedStudents.configure_pre_processor((SIDE, SIDE))
    model = UninformedStudents(**{**PAPER, **small, "pre_processor": pre_processor, **arguments})
    for ensemble in model.model.scales:
        for name, statistic in ensemble.named_buffers():
            statistic.uniform_(0.5, 1.5) if name.endswith("std") else statistic.uniform_(-0.5, 0.5)
    return model.eval()


@pytest.fixture(scope="package")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_model((33, 65))


@pytest.fixture(scope="package")
def patch_model():
    """Model that scores whole images."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make_model((17, 33), mode="patch", pre_processor=True)


@pytest.fixture(scope="package")
def checkpoint(model, tmp_path_factory):
    return save(model, tmp_path_factory.mktemp("model") / "model.ckpt")


@pytest.fixture(scope="package")
def patch_checkpoint(patch_model, tmp_path_factory):
    return save(patch_model, tmp_path_factory.mktemp("patch_model") / "model.ckpt")


def save(model, path):
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path
