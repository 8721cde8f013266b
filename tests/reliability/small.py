"""A tiny inspection task, and a model and an engine that are done with it in a second."""

import json
from pathlib import Path
from typing import Any

import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents

from ..integration.conftest import students, write_category

SMALL = {
    "patch_sizes": (83,),
    "n_students": 1,
    "output_stride": 8,
    "architecture": "lean",
    "lr": 1e-3,
}
SIDE = 32


def small_model(**arguments: Any) -> UninformedStudents:
    """Model with the paper's settings but for a few; those that are no arguments of the model are settings too."""
    pre_processor = UninformedStudents.configure_pre_processor((SIDE, SIDE))
    return students("paper", **{"pre_processor": pre_processor, "visualizer": False, **SMALL, **arguments})


def small_engine(folder: Path, **arguments: Any) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=folder, accelerator="cpu", **{"max_epochs": 1, **quiet, **arguments})


def small_data(root: Path, **arguments: Any) -> MVTec:
    """Data module of the category ``dots`` in a folder, which is made where there is none."""
    if not (root / "dots").is_dir():
        write_category(root / "dots")
    return MVTec(root=root, category="dots", **{"train_batch_size": 2, "num_workers": 0, **arguments})


def small_config(root: Path, path: Path, **trainer: Any) -> Path:
    """Configuration file of the same model on the category ``dots`` in a folder."""
    small_data(root)
    transform = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [SIDE, SIDE]}}
    pre_processor = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": transform}}
    arguments = {"root": str(root), "category": "dots", "num_workers": 0, "train_batch_size": 2}
    model = {"preset": "paper", **SMALL, "pre_processor": pre_processor, "visualizer": False}
    config = {
        "model": {"class_path": "UninformedStudents", "init_args": model},
        "data": {"class_path": "MVTec", "init_args": arguments},
        "trainer": {"accelerator": "cpu", "logger": False, "max_epochs": 2, "enable_progress_bar": False, **trainer},
    }
    # Every JSON document is a YAML document.
    path.write_text(json.dumps(config))
    return path


def weights_of(checkpoint: Path) -> torch.Tensor:
    """All weights and statistics of a checkpoint, as one vector."""
    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    return torch.cat([value.flatten().double() for name, value in state.items() if name.startswith("model.")])
