"""Compare training on random pixels in each step (``phase``) with training on every pixel (``dense``).

Each mode trains the same students from the same seed, on one image a step, and is tested on all test images at
equal distances. The time is only that of the training, with its data loading. The floating point operations
of a step are reported too, and their rate as a fraction of that of large convolutions.

A row for each test is appended to a CSV file, so that an interrupted run keeps its results.

    python benchmarks/training.py --root datasets/MVTecAD --category pill --steps "{dense: 360, phase: 2880}"
"""

import csv
import time
from pathlib import Path
from typing import Any, Literal, cast

import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.models import UninformedStudents
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from measuring import count_operations, machine, rate_of_convolutions
from rich.console import Console
from rich.table import Table

from anomalib_students.model.metrics import create_metrics

Mode = Literal["phase", "dense"]
COLUMNS = ("mode", "steps", "seconds", "seconds a step", "AUPRO", "pixel AUROC", "image AUROC")


def training(
    root: Path,
    steps: dict[Mode, int],
    category: str = "pill",
    patch_size: int = 33,
    n_students: int = 3,
    tests: int = 4,
    side: int = 256,
    lr: float = 1e-3,
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed",
    output: Path = Path("training.csv"),
) -> None:
    """Print time and accuracy of both modes.

    Args:
        root: Folder of MVTec AD.
        steps: Number of steps of each mode.
        category: Category to train and test on.
        patch_size: Receptive field p.
        n_students: Number M of students.
        tests: How often each mode is tested, after equal fractions of its steps.
        side: Side in pixels that images are resized to.
        lr: Learning rate, constant.
        precision: Precision of Lightning's trainer.
        output: CSV file that a row is appended to after each test.
    """
    bfloat16 = precision == "bf16-mixed"
    device = torch.device("cpu")
    rate = rate_of_convolutions(torch.bfloat16 if bfloat16 else torch.float32, torch.contiguous_format, device, runs=3)
    rows: list[dict[str, Any]] = []
    for mode, n_steps in steps.items():
        seed_everything(0)
        settings = {
            "patch_sizes": (patch_size,),
            "n_students": n_students,
            "training_mode": mode,
            "lr": lr,
        }
        model = UninformedStudents(
            "paper",
            **settings,
            pre_processor=UninformedStudents.configure_pre_processor((side, side)),
            evaluator=Evaluator(val_metrics=create_metrics()),
            visualizer=False,
        )
        test_rows = TestRows(mode, output)
        Engine(
            max_steps=n_steps,
            max_epochs=-1,
            val_check_interval=n_steps // tests,
            check_val_every_n_epoch=None,
            precision=precision,
            accelerator="cpu",
            logger=False,
            default_root_dir=output.parent,
            callbacks=[test_rows],
        ).fit(model, datamodule=MVTec(root=root, category=category, train_batch_size=1, num_workers=0))
        for row in test_rows.rows:
            operations = step_operations(model, side)
            row["of convolutions"] = f"{operations / row['seconds a step'] / rate:.0%}"
            row["GFLOP a step"] = f"{operations / 1e9:.0f}"
        rows += test_rows.rows
    table = Table(*rows[0], title=f"{category}, p = {patch_size}, M = {n_students}, {side} px; {machine(device)}")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


class TestRows(Callback):
    """Measure the time of the training, and record it with the metrics at each validation, which is the test."""

    def __init__(self, mode: Mode, output: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self._mode = mode
        self._output = output
        self._seconds = 0.0
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._start = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        del trainer, pl_module
        self._seconds += time.perf_counter() - self._start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a row, and start the clock again."""
        del pl_module
        metrics = (float(trainer.callback_metrics[name]) for name in ("pixel_AUPRO", "pixel_AUROC", "image_AUROC"))
        steps = trainer.global_step
        row = dict(
            zip(COLUMNS, (self._mode, steps, self._seconds, self._seconds / max(1, steps), *metrics), strict=True)
        )
        self.rows.append(row)
        is_new = not self._output.exists()
        with self._output.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        self._start = time.perf_counter()


def step_operations(model: UninformedStudents, side: int) -> int:
    """Count the floating point operations of a training step: forward, and backward through the students."""
    model.model.train()

    def step() -> None:
        cast("torch.Tensor", model.model(torch.rand(1, 3, side, side))).backward()

    return count_operations(step)


if __name__ == "__main__":
    auto_cli(training, as_positional=False)
