"""Tables 2, 6 and 7: one-class classification of MNIST and CIFAR-10, and the weights of the teacher's loss."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torchmetrics.functional.classification import binary_auroc

from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.weights import BUNDLED, load_teacher, read_metadata, teacher_path
from reproduction.baselines.descriptor_methods import DescriptorMethod, Method
from reproduction.comparison import HEADINGS, OURS, Comparison, compare, table_of
from reproduction.experiment import device, run_cells
from reproduction.paper_tables import MEAN, PRINTED_MEANS, TABLE_6, TABLE_7

from .data import DATA_SETS, Data, OneClass, class_names, read_one_class
from .students import describe_patches, train_students

__all__ = ["PATCH_SIZE", "STUDENTS", "load_bundled_teacher", "one_class", "one_class_tables"]

PATCH_SIZE = 33
"""Side p to which images are resized."""
STUDENTS = "students.pt"
"""Weights and statistics of our method, in the folder of a cell."""
PAPER_TEACHER = f"{OURS}-k1-m0-c1"
TABLES = {"mnist": ("Table 6", "MNIST", TABLE_6), "cifar10": ("Table 7", "CIFAR-10", TABLE_7)}


def one_class(
    data: Data,
    root: Path = DATA_SETS,
    classes: list[int | str] | None = None,
    methods: list[Literal["ours", Method]] | None = None,
    teachers: list[Path] | None = None,
    n_students: int = 5,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-4,
    lr_schedule: Literal["constant", "cosine"] = "constant",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    results: Path | None = None,
) -> None:
    """Make Tables 2 and 6 (MNIST) or 7 (CIFAR-10): AUROC of images, with one class as the normal one.

    Cells that have a result in the folder of the results are not measured again. The paper does not say how students
    are trained in this experiment: the defaults are those for MVTec AD, with batches of 64.

    Args:
        data: Data set.
        root: Folder with the data set as torchvision keeps it; torchvision downloads it to the default.
        classes: Normal classes, by name or number; by default all ten.
        methods: Methods; by default all.
        teachers: Teacher files that our method is trained with too, beside the bundled one: those of the paper's four
            weights of the loss for Table 2.
        n_students: Number M of students.
        epochs: Epochs of our method.
        batch_size: Images in a step of our method.
        lr: Learning rate of our method.
        lr_schedule: constant, as the paper, or cosine, which short trainings profit from.
        precision: Arithmetic of our method's training.
        train_limit: Most images of the normal class to train on; by default all.
        test_limit: Most images to test on, drawn in the proportions of normal and anomalous ones; by default all.
        seed: Seed of each cell.
        results: Folder for the results; by default results/reproduction/mnist or cifar10.

    Raises:
        OSError: If a teacher is missing, or the results cannot be written.
        RuntimeError: If a cell has failed.
        ValueError: If there is no such class, or the folder has results of other settings.
    """
    names = class_names(data, classes)
    chosen = {variant_of(read_metadata(path)): path for path in teachers or []}
    training = {"n_students": n_students, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    training |= {"decays": lr_schedule == "cosine", "bfloat16": precision == "bf16-mixed"}
    limits = {"train_limit": train_limit, "test_limit": test_limit}
    cells = {}
    for name in names:
        read = partial(read_one_class, data, root, name, PATCH_SIZE, **limits, seed=seed)
        for method in methods or (OURS, *get_args(Method)):
            if method == OURS:
                cells[name, OURS] = partial(_ours, read, training, teacher_path(BUNDLED, PATCH_SIZE), OURS)
                for variant, path in chosen.items():
                    cells[name, variant] = partial(_ours, read, training, path, variant)
            else:
                cells[name, method] = partial(_descriptors, read, method)
    folder = results or Path("results/reproduction") / data
    run_cells(folder, cells, {**training, **limits}, seed, partial(one_class_tables, data=data))


def one_class_tables(results: Sequence[Mapping[str, Any]], data: Data) -> list[Comparison]:
    """Compare results with the paper's table of a data set, and their means with Table 2."""
    name, title, table = TABLES[data]
    # The bundled teacher was distilled, with a little weight on the compactness of descriptors.
    paper, printed = (
        figures.assign(**{OURS: figures[PAPER_TEACHER]}) for figures in (table, PRINTED_MEANS[name].to_frame().T)
    )
    ours = table_of(results)
    # Teachers of other weights than the paper's have a column too.
    paper = paper.reindex(columns=[*paper.columns, *ours.columns.difference(paper.columns)])
    classes = compare(
        f"{name}: AUROC of images on {title}, by the normal class",
        *(figures.rename(columns=_heading) for figures in (ours, paper)),
        printed.rename(columns=_heading).iloc[0],
    )
    # Methods are the rows of Table 2.
    means, of_paper = (figures.loc[[MEAN]].T.rename(columns={MEAN: title}) for figures in (classes.ours, classes.paper))
    return [Comparison(f"Table 2: mean AUROC of images on {title}", means, of_paper), classes]


def _heading(column: str) -> str:
    """Name a method as the paper does, and our method with a teacher by the losses that it was trained with."""
    if not column.startswith(f"{OURS}-"):
        return HEADINGS.get(column, column)
    weights = [(part[0], part[1:]) for part in column.split("-")[1:] if float(part[1:])]
    return f"{OURS}, {' '.join(f'L_{loss}' if weight == '1' else f'{weight} L_{loss}' for loss, weight in weights)}"


def variant_of(metadata: Mapping[str, str]) -> str:
    """Name our method with a teacher by the weights of its loss, such as ``ours-k1-m0-c1``."""
    return "-".join([OURS, *(f"{loss}{float(metadata[f'lambda_{loss}']):g}" for loss in "kmc")])


def load_bundled_teacher() -> PatchNetwork:
    """Load the bundled teacher."""
    return load_teacher(teacher_path(BUNDLED, PATCH_SIZE), PATCH_SIZE, 128)


def _ours(
    read: Callable[[], OneClass], training: Mapping[str, Any], teacher: Path, column: str, folder: Path
) -> dict[str, float]:
    images = read()
    network = load_teacher(teacher, PATCH_SIZE, 128).to(device())
    model = train_students(network, images.training.to(device()), **training)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / STUDENTS)
    return {column: _auroc(model.score(images.test.to(device())), images)}


def _descriptors(read: Callable[[], OneClass], method: Method, folder: Path) -> dict[str, float]:
    images = read()
    teacher = load_bundled_teacher().to(device())
    training, test = (describe_patches(teacher, part.to(device())) for part in (images.training, images.test))
    model = DescriptorMethod(method, one_class=True)
    model.fit(training)
    return {method: _auroc(model(test), images)}


def _auroc(scores: torch.Tensor, images: OneClass) -> float:
    # By rank, as torchmetrics takes scores beyond 0 to 1 for logits.
    return float(binary_auroc(scores.argsort().argsort() / len(scores), images.is_anomalous.long().to(scores.device)))
