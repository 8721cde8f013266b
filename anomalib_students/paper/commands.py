"""The commands ``experiments mvtec`` and ``experiments one-class``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from anomalib_students.data.one_class_dataset import check_limits
from anomalib_students.engine.precision import Precision
from anomalib_students.model.ensemble import TrainingMode
from anomalib_students.model.patch_network import ARCHITECTURES, Architecture, check_architecture
from anomalib_students.model.schedule import LearningRateSchedule
from anomalib_students.runs.place import Place
from anomalib_students.runs.storage import Storage, begin
from anomalib_students.teacher.pretraining import PAPER_WEIGHTS

from .experiment import run_experiment
from .mvtec import MVTecMethod, MVTecSettings, find_categories, mvtec_jobs, mvtec_tables
from .one_class import (
    LossWeights,
    OneClassData,
    OneClassMethod,
    OneClassSettings,
    class_names,
    one_class_jobs,
    one_class_tables,
)

__all__ = ["mvtec", "one_class"]

PatchSize = Literal[17, 33, 65]


def mvtec(
    root: Path = Path("datasets/MVTecAD"),
    categories: list[str] | None = None,
    methods: list[MVTecMethod] | None = None,
    patch_sizes: list[PatchSize] | None = None,
    baseline_patch_size: PatchSize | None = None,
    architecture: Architecture = "paper",
    n_students: int = 3,
    output_stride: Literal[1, 2, 4, 8] = 1,
    training_mode: TrainingMode = "dense",
    teacher: str | dict[int, str] = "bundled",
    image_size: int = 256,
    epochs: int | None = None,
    lr: float = 1e-4,
    lr_schedule: LearningRateSchedule = "constant",
    precision: Precision = "32-true",
    train_limit: int | None = None,
    test_limit: int | None = None,
    baseline_samples: int | None = None,
    source_checkpoint: Path | None = None,
    source_layer: str | None = None,
    seed: int = 0,
    report: bool = False,
    results: Path = Path("results/experiments"),
    name: str = "mvtec",
    resume: bool = False,
    ray: bool | None = None,
    address: str | None = None,
    cpus_per_cell: float = 1,
    gpus_per_cell: float | None = None,
) -> None:
    """Make the paper's Tables 1 and 3: AUPRO of all methods, and of all scales of ours, on MVTec AD.

    The defaults are the paper's settings, which are for a GPU.

    Args:
        root: Folder with a folder for each category, in the layout of MVTec AD.
        categories: Categories. By default those of MVTec AD that are in the folder.
        methods: Methods. By default all.
        patch_sizes: Receptive fields p of our method in pixels; several are joined to a multi-scale model too, without
            another training. By default those of the architecture: 17, 33 and 65, or 33 and 65.
        baseline_patch_size: Receptive field of the methods that are fitted to the teacher's descriptors. By default the
            paper's 65, or where our method is not trained with it, the largest of its own.
        architecture: Networks of our method, and of the teacher of the methods that are fitted to its descriptors:
            paper, light for the cheapest, or medium.
        n_students: Number M of students.
        output_stride: Distance in pixels between scored pixels, and between the descriptors of the baselines. The paper
            scores every pixel. The CNN feature dictionary has at least its 4.
        training_mode: dense trains on every pixel in each step, as the paper; phase on a part of them, at a fraction of
            the cost.
        teacher: Teachers: bundled, the path of a teacher file, or one for each patch size.
        image_size: Side in pixels to which images are zoomed.
        epochs: Epochs of our method and of the SSIM autoencoder. By default their papers' 100 and 200. The other
            methods are fitted in one pass over the images.
        lr: Learning rate of our method.
        lr_schedule: constant, as the paper, or cosine, which short trainings profit from.
        precision: Arithmetic of the networks.
        train_limit: Train on so many images of a category at most.
        test_limit: Test on so many images of a category at most.
        baseline_samples: Descriptors that each baseline is fitted to. By default the paper's 50,000, and for the
            autoencoders all, at most a million.
        source_checkpoint: Weights of the ResNet-18 of the CNN feature dictionary. By default timm downloads them.
        source_layer: Layer of it whose pooled features are taken, say layer3. By default the last.
        seed: Seed of each training.
        report: Write report.html for each model of our method, beside its checkpoint: its scores, curves and images.
            Cells that are done get none.
        results: Folder for the experiments.
        name: Name of this one, a folder in it.
        resume: Resume the experiment of that name: cells that are done are skipped, trainings are resumed from their
            last epoch. Categories and methods may be others then, and are added.
        ray: Train cells at once as tasks of Ray. By default where Ray is installed, and there is an address, or this
            machine has room for more than one cell.
        address: Address of a Ray cluster, or auto; the results folder must be shared by its nodes.
        cpus_per_cell: CPU cores of each cell, with Ray.
        gpus_per_cell: GPUs of each cell, with Ray; fractions share one. By default 1, if there are any.

    Raises:
        OSError: If the data are missing, or the results cannot be written.
        RuntimeError: If a cell has failed.
        ValueError: If a number is out of range, the architecture has no network for a patch size, the settings are not
            those of the experiment to be resumed, or there is no room for a cell.
    """
    check_limits(epochs=epochs, train_limit=train_limit, test_limit=test_limit, baseline_samples=baseline_samples)
    place = Place(ray, address, cpus_per_cell, gpus_per_cell)
    sizes: Sequence[int] = patch_sizes or sorted(ARCHITECTURES[architecture])
    baselines = baseline_patch_size or (65 if 65 in sizes else max(sizes))
    for patch_size in (*sizes, baselines):
        check_architecture(architecture, patch_size)
    chosen = categories or find_categories(root)
    settings = MVTecSettings(
        root=str(root.resolve()),
        architecture=architecture,
        n_students=n_students,
        output_stride=output_stride,
        training_mode=training_mode,
        teacher=_teacher(teacher),
        image_size=image_size,
        epochs=epochs,
        lr=lr,
        lr_schedule=lr_schedule,
        precision=precision,
        train_limit=train_limit,
        test_limit=test_limit,
        baseline_samples=baseline_samples,
        source_checkpoint=_absolute(source_checkpoint),
        source_layer=source_layer,
        seed=seed,
    )
    folder = (results / name).resolve()
    begin(Storage(str(folder)), settings.as_dict(), resume)
    cells = mvtec_jobs(settings, chosen, methods or get_args(MVTecMethod), sizes, baselines, report)
    tables = partial(mvtec_tables, baseline_patch_size=baselines)
    run_experiment(folder, list(cells.values()), tables, settings.as_dict(), place)


def one_class(
    data: OneClassData,
    root: Path = Path("datasets"),
    classes: list[int | str] | None = None,
    methods: list[OneClassMethod] | None = None,
    patch_size: PatchSize = 33,
    architecture: Architecture = "paper",
    n_students: int = 5,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-4,
    lr_schedule: LearningRateSchedule = "constant",
    precision: Precision = "32-true",
    train_limit: int | None = None,
    test_limit: int | None = None,
    teacher_images: Path | None = None,
    loss_weights: list[LossWeights] | None = None,
    teacher_steps: int = 50_000,
    teacher_lr: float = 2e-4,
    source_checkpoint: Path | None = None,
    source_layer: str | None = None,
    cache_dir: Path | None = None,
    seed: int = 0,
    results: Path = Path("results/experiments"),
    name: str | None = None,
    resume: bool = False,
    ray: bool | None = None,
    address: str | None = None,
    cpus_per_cell: float = 1,
    gpus_per_cell: float | None = None,
) -> None:
    """Make the paper's Tables 2 and 6 (MNIST) or 7 (CIFAR-10): AUROC of images, with one class as the normal one.

    The defaults are the paper's settings. Of the training of the students in this experiment it says nothing; they are
    those for MVTec AD, and batches of 64.

    Args:
        data: Data set.
        root: Folder with the data set as torchvision keeps it. If it is the default, torchvision downloads it.
        classes: Normal classes, by name or number. By default all ten.
        methods: Methods. By default all.
        patch_size: Side p in pixels to which images are zoomed.
        architecture: Networks of our method, and of the teacher of all methods: paper, light for the cheapest, or
            medium.
        n_students: Number M of students.
        epochs: Epochs of our method. The others are fitted in one pass over the images.
        batch_size: Images in a training step.
        lr: Learning rate of our method.
        lr_schedule: constant, as the paper, or cosine, which short trainings profit from.
        precision: Arithmetic of the networks.
        train_limit: Train on so many images of the normal class at most.
        test_limit: Test on so many images at most, drawn in the proportions of normal and other ones.
        teacher_images: Folder of photographs to pretrain teachers on, which then our method is tried with, beside the
            bundled teacher.
        loss_weights: Weights lambda_k, lambda_m and lambda_c of the loss of each of these teachers. By default the
            paper's four settings.
        teacher_steps: Steps of their pretraining.
        teacher_lr: Learning rate of their pretraining.
        source_checkpoint: Weights of the ResNet-18 that is distilled. By default timm downloads them.
        source_layer: Layer of it whose pooled features are distilled, say layer3. By default the last.
        cache_dir: Folder to keep the images of the data set in as files. By default the user's cache folder.
        seed: Seed of each training.
        results: Folder for the experiments.
        name: Name of this one, a folder in it. By default that of the data set.
        resume: Resume the experiment of that name: cells that are done are skipped, trainings are resumed from their
            last epoch. Classes, methods and loss weights may be others then, and are added.
        ray: Train cells at once as tasks of Ray. By default where Ray is installed, and there is an address, or this
            machine has room for more than one cell.
        address: Address of a Ray cluster, or auto; the results folder must be shared by its nodes.
        cpus_per_cell: CPU cores of each cell, with Ray.
        gpus_per_cell: GPUs of each cell, with Ray; fractions share one. By default 1, if there are any.

    Raises:
        OSError: If the results cannot be written.
        RuntimeError: If a cell has failed.
        ValueError: If there is no such class, a number is out of range, the architecture has no network for the patch
            size, the settings are not those of the experiment to be resumed, there are loss weights but no images, or
            there is no room for a cell.
    """
    if loss_weights and teacher_images is None:
        msg = "With loss_weights, name a folder of photographs to pretrain teachers on: --teacher_images."
        raise ValueError(msg)
    check_limits(epochs=epochs, train_limit=train_limit, test_limit=test_limit, teacher_steps=teacher_steps)
    check_architecture(architecture, patch_size)
    place = Place(ray, address, cpus_per_cell, gpus_per_cell)
    chosen = class_names(data, classes)
    weights = (loss_weights or PAPER_WEIGHTS) if teacher_images else ()
    settings = OneClassSettings(
        data=data,
        # A relative path is taken for the default one, to which torchvision downloads.
        root=str(root if root == Path("datasets") else root.resolve()),
        cache_dir=_absolute(cache_dir),
        patch_size=patch_size,
        architecture=architecture,
        n_students=n_students,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=lr_schedule,
        precision=precision,
        train_limit=train_limit,
        test_limit=test_limit,
        teacher_images=_absolute(teacher_images),
        teacher_steps=teacher_steps,
        teacher_lr=teacher_lr,
        source_checkpoint=_absolute(source_checkpoint),
        source_layer=source_layer,
        seed=seed,
    )
    folder = (results / (name or data)).resolve()
    begin(Storage(str(folder)), settings.as_dict(), resume)
    teachers, cells = one_class_jobs(settings, chosen, methods or get_args(OneClassMethod), weights)
    tables = partial(one_class_tables, data=data)
    run_experiment(folder, [*teachers, *cells.values()], tables, settings.as_dict(), place)


def _absolute(path: Path | None) -> str | None:
    """Make a path one that means the same in every process."""
    return None if path is None else str(path.resolve())


def _teacher(teacher: str | dict[int, str]) -> str | dict[int, str]:
    """Make the paths of teachers ones that mean the same in every process."""
    if isinstance(teacher, dict):
        return {size: str(_teacher(one)) for size, one in teacher.items()}
    return teacher if teacher == "bundled" else str(Path(teacher).resolve())
