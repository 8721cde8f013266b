"""Count the floating point operations of whole trainings: their steps, and all statistics before and after them.

Trainings of 1 and of 9 steps are counted by torch's FlopCounterMode, optimizer included; each further step costs as
much.

    python benchmarks/training_cost.py --root datasets/MVTecAD
"""

from pathlib import Path

from detection import CATEGORIES
from detection_job import Job, cache_images, make_datamodule, make_model, train
from jsonargparse import auto_cli
from lightning.pytorch import seed_everything
from measuring import count_operations
from rich.console import Console
from rich.table import Table

from anomalib_students.model.training import TRAINING_IMAGES

FEW_STEPS, MORE_STEPS = 1, 9


def training_cost(root: Path = Path("datasets/MVTecAD"), categories: tuple[str, ...] = CATEGORIES) -> None:
    """Print the TFLOP of the default's training on each category.

    Args:
        root: Folder of MVTec AD.
        categories: Folders in the root, paths of folders in MVTec AD's layout, or SampleParts.
    """
    cache_images()
    table = Table("category", "TFLOP a training", "of its steps", "of its statistics", "GFLOP a step")
    for category in categories:
        few, more = (operations(root, category, steps) for steps in (FEW_STEPS, MORE_STEPS))
        step = (more - few) / (MORE_STEPS - FEW_STEPS)
        parts = step * TRAINING_IMAGES, few - step * FEW_STEPS
        tera = (f"{value / 1e12:.1f}" for value in (sum(parts), *parts))
        table.add_row(Path(category).name, *tera, f"{step / 1e9:.2f}")
    Console(soft_wrap=True).print(table)


def operations(root: Path, category: str, steps: int) -> int:
    """Count the operations of a training of a number of steps."""
    seed_everything(0, verbose=False)
    job = Job({}, category, seed=0, root=str(root), resnet18=None, brightness=False, output="")
    return count_operations(train, make_model({}, None), make_datamodule(job), {"max_steps": steps})


if __name__ == "__main__":
    auto_cli(training_cost, as_positional=False)
