"""The jobs of the soak: commands on tiny data, each a function of a folder that runs in its own process.

The process is forked from one that has imported the slow modules, and runs the same main functions as the commands.
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

__all__ = ["PRELOADED", "checkpoints", "export", "grid", "predictions", "prepare", "pretrain", "train"]

PRELOADED = ["anomalib.cli.cli", "anomalib_students.cli", "anomalib.deploy", "openvino", "torch.onnx"]
"""Modules that all processes share, anomalib before OpenVINO."""
REPOSITORY = Path(__file__).parents[1]
SIDE = 32
MODEL = {
    "architecture": "light",
    "patch_sizes": [17],
    "n_students": 2,
    "output_stride": 8,
    "descriptor_dim": 128,
    "training_mode": "phase",
    "hard_fraction": 0.5,
    "light_jitter": 0.5,
    "lr": 1e-3,
    "lr_schedule": "cosine",
    "pre_processor": {
        "class_path": "anomalib.pre_processing.PreProcessor",
        "init_args": {
            "transform": {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [SIDE] * 2}}
        },
    },
}
EPOCHS = 40
GRID_EPOCHS = 12
CHECKPOINTS = {
    "class_path": "anomalib.callbacks.ModelCheckpoint",
    "init_args": {"filename": "model", "save_on_train_epoch_end": True},
}
PRETRAINING = {
    "architecture": "light",
    "patch_size": 17,
    "descriptor_dim": 8,
    "source": "resnet18",
    "source_layer": "layer1",
    "source_size": 32,
    "lambda_k": 1.0,
    "lambda_m": 1.0,
    "lambda_c": 0.01,
    "batch_size": 4,
    "max_steps": 32,
    "checkpoint_every": 4,
    "accelerator": "cpu",
}


def prepare(shared: Path, folder: Path) -> None:
    """Write what all jobs share: images, the weights of a source network, and settings."""
    del folder
    folder = shared / "data" / "noise"
    numbers = np.random.default_rng(0)
    for name in [f"train/good/{index}" for index in range(6)] + ["test/good/0", "test/good/1", "test/spot/0"]:
        pixels = numbers.integers(100, size=(40, 40, 3), dtype=np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        if "spot" in name:
            pixels[10:20, 10:20] = 255
            mask[10:20, 10:20] = 255
            _save(mask, folder / "ground_truth/spot/0_mask.png")
        _save(pixels, folder / f"{name}.png")
    torch.manual_seed(0)
    source = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
    save_file(source.state_dict(), shared / "resnet18.safetensors")
    data = {"class_path": "MVTec", "init_args": {"root": str(shared / "data"), "category": "noise", "num_workers": 0}}
    flip = {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip"}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "UninformedStudents", "init_args": {**MODEL, "visualizer": False}},
        "data": {**data, "init_args": {**data["init_args"], "train_batch_size": 2, "train_augmentations": flip}},
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "max_epochs": EPOCHS,
            "check_val_every_n_epoch": EPOCHS,
            "callbacks": [CHECKPOINTS],
        },
    }
    # Every JSON document is a YAML document.
    (shared / "train.yaml").write_text(json.dumps(config))
    settings = {
        "patch_sizes": MODEL["patch_sizes"],
        "data": {"class_path": "MVTec", "init_args": {"root": str(shared / "data"), "train_batch_size": 2}},
        "model": {name: value for name, value in MODEL.items() if name != "patch_sizes"},
        "trainer": {"max_epochs": GRID_EPOCHS, "check_val_every_n_epoch": GRID_EPOCHS},
    }
    (shared / "grid.yaml").write_text(json.dumps(settings))


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, the latest at the end."""
    return sorted(
        (path for path in folder.rglob("*.ckpt") if not any(part.startswith(".") for part in path.parts)),
        key=lambda path: path.stat().st_mtime_ns,
    )


def train(shared: Path, folder: Path) -> None:
    """Run ``anomalib train``, from the last checkpoint if there is one."""
    from anomalib.cli.cli import main

    last = [f"--ckpt_path={path}" for path in checkpoints(folder)[-1:]]
    _call(main, "anomalib", "train", "-c", shared / "train.yaml", f"--default_root_dir={folder}", *last)


def pretrain(shared: Path, folder: Path) -> None:
    """Run ``anomalib-students pretrain``, from the last checkpoint if there is one."""
    from anomalib_students.cli import main

    settings = {
        **PRETRAINING,
        "images": shared / "data/noise/train",
        "source_checkpoint": shared / "resnet18.safetensors",
        "output": folder / "p17.safetensors",
        "results": folder / "results",
        "resume": "true",
    }
    _call(main, "anomalib-students", "pretrain", *(f"--{name}={value}" for name, value in settings.items()))


def export(shared: Path, folder: Path, checkpoint: str = "new.ckpt") -> None:
    """Run ``anomalib export`` of a shared checkpoint."""
    from anomalib.cli.cli import main

    model = [f"--model.{name}={MODEL[name]}" for name in ("architecture", "patch_sizes", "n_students")]
    options = [f"--ckpt_path={shared / checkpoint}", "--export_type=openvino", f"--export_root={folder}"]
    _call(main, "anomalib", "export", "--model=UninformedStudents", *model, *options)


def grid(shared: Path, folder: Path) -> None:
    """Run the Ray job that trains a grid, resumed if it has begun."""
    options = ["-c", shared / "grid.yaml", f"--storage_path={folder / 'storage'}", "--categories=[noise]"]
    begun = (folder / "storage" / "train" / "settings.json").is_file()
    command = [sys.executable, REPOSITORY / "ray_jobs" / "train.py", *options, f"--resume={json.dumps(begun)}"]
    subprocess.run(command, check=True)


def predictions(shared: Path, folder: Path, number: int = 1000, warm_up: int = 100) -> None:
    """Predict one image after the other, and write down the megabytes of memory before and after."""
    from anomalib.deploy import OpenVINOInferencer

    inferencer = OpenVINOInferencer(shared / "new" / "weights" / "openvino" / "model.xml")
    numbers = np.random.default_rng(0)
    memory = []
    for index in range(warm_up + number):
        if index == warm_up:
            memory.append(_megabytes())
        inferencer.predict(numbers.random((40, 40, 3), dtype=np.float32))
    memory.append(_megabytes())
    (folder / "memory.json").write_text(json.dumps(memory))


def _call(main: Callable[[], object], *arguments: object) -> None:
    """Call the main function of a command, with random numbers that differ between processes."""
    seed = random.SystemRandom().randrange(2**32)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    sys.argv = [str(argument) for argument in arguments]
    main()


def _megabytes() -> float:
    """Megabytes of memory of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
