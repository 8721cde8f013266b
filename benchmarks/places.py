"""Compare steps whose patches are neighbours with steps whose patches are of many places of an image.

For networks without poolings, the training mode ``phase`` draws patches from several tiles. One student each is trained
with tiles of the sides that are named, and as many patches a step, and its loss (eq. 7) on held-out images is measured
at equal distances: the squared distance to the teacher's normalised descriptors, which is their dimension
for a student that says always the same.

    python benchmarks/places.py --root datasets/MVTecAD --category pill --sides "[32,8]" --steps 500
"""

import time
from functools import partial
from pathlib import Path

import torch
from anomalib.data import MVTec
from jsonargparse import auto_cli
from measuring import machine
from rich.console import Console
from rich.table import Table

from anomalib_students.model import augment
from anomalib_students.model.hold_out import split_indices
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.model.student_teacher import StudentTeacher
from anomalib_students.model.training import WARM_UP_STEPS
from anomalib_students.networks.statistics import RunningStatistics
from anomalib_students.networks.weights import load_teacher, teacher_path
from anomalib_students.trainings import cosine_with_warm_up

DIM = 128
PATCH_SIZE = 17
IMAGE_SIZE = 256
MEASURED = 8
"""Side of the tiles of the patches that statistics and losses are measured on."""
DESCRIBED = 120
"""Training images that the statistics of the teacher are taken of."""


def places(
    root: Path, category: str = "pill", sides: tuple[int, ...] = (32, 8), steps: int = 500, tests: int = 4
) -> None:
    """Print the held-out loss of the paper's network for p = 17 by the side of the tiles.

    Args:
        root: Folder of MVTec AD.
        category: Category to train on.
        sides: Sides of the tiles that patches are drawn from, in patches; 32 for one tile.
        steps: Steps of each training, of one image.
        tests: How often the loss is measured, at equal distances.
    """
    training, held_out = load_images(root, category)
    table = Table("tile", *(f"after {steps * (test + 1) // tests} steps" for test in range(tests)), "seconds")
    for side in sides:
        losses, seconds = train(training, held_out, side, steps, tests)
        table.add_row(f"{side} x {side}", *(f"{loss:.1f}" for loss in losses), f"{seconds:.0f}")
    console = Console(width=120)
    console.print(f"Held-out loss of {category}, p = {PATCH_SIZE}, {machine(torch.device('cpu'))}")
    console.print(table)


def load_images(root: Path, category: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Load all training images: those to train on, and those that are held out."""
    datamodule = MVTec(root=root, category=category, num_workers=0)
    datamodule.setup("fit")
    dataset = datamodule.train_data
    resize = UninformedStudents.configure_pre_processor((IMAGE_SIZE, IMAGE_SIZE)).transform
    images = torch.stack([resize(dataset[index].image) for index in range(len(dataset))])
    training, held_out = split_indices(len(dataset), 0.1)
    return images[training], images[held_out]


def train(images: torch.Tensor, held_out: torch.Tensor, side: int, steps: int, tests: int) -> tuple[list[float], float]:
    """Train a student with tiles of a side, and return its held-out losses and the seconds of its steps."""
    torch.manual_seed(0)
    scale = StudentTeacher(PATCH_SIZE, 1, DIM)
    scale.teacher = load_teacher(teacher_path("bundled", PATCH_SIZE, "paper"), PATCH_SIZE, DIM, "paper")
    normalise(scale, images)
    optimizer = torch.optim.Adam(scale.students.parameters(), lr=1e-3, weight_decay=1e-5)
    factor = partial(cosine_with_warm_up, steps=steps, warm_up=WARM_UP_STEPS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses, seconds = [], 0.0
    for step in range(steps):
        start = time.perf_counter()
        augment.SPREAD_SIDE = side
        with torch.autocast("cpu", torch.bfloat16):
            loss = scale.loss(augment.sample_phase(scale.teacher, images[torch.randint(len(images), (1,))]), 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if (step + 1) * tests % steps == 0:
            losses.append(held_out_loss(scale, held_out))
    return losses, seconds


@torch.no_grad()
def normalise(scale: StudentTeacher, images: torch.Tensor) -> None:
    """Set the statistics of the teacher's descriptors from a sample of the patches."""
    augment.SPREAD_SIDE = MEASURED
    statistics = RunningStatistics(DIM)
    for image in images[:DESCRIBED].split(1):
        statistics.update(scale.descriptor_vectors(augment.sample_phase(scale.teacher, image), 1))
    scale.normalise_descriptors(statistics)


@torch.no_grad()
def held_out_loss(scale: StudentTeacher, images: torch.Tensor) -> float:
    """Measure the loss on the same patches of many places of held-out images."""
    augment.SPREAD_SIDE = MEASURED
    generator = torch.Generator().manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [scale.loss(augment.sample_phase(scale.teacher, image, generator), 1) for image in images.split(1)]
    return float(torch.stack(losses).mean())


if __name__ == "__main__":
    auto_cli(places, as_positional=False)
