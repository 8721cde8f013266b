"""The commands ``experiments mvtec`` and ``experiments one-class``."""

from functools import partial
from typing import Any, get_args

from anomalib_students.runs.storage import Storage, begin
from anomalib_students.teacher.pretrain import PAPER_WEIGHTS

from .experiment import run_experiment
from .mvtec import find_categories, mvtec_jobs, mvtec_tables
from .one_class import class_names, one_class_jobs, one_class_tables
from .settings import MVTecMethod, MVTecSettings, OneClassMethod, OneClassSettings

__all__ = ["mvtec", "one_class"]


def mvtec(**settings: Any) -> None:
    """Make the paper's Tables 1 and 3: AUPRO of all methods, and of all scales of ours, on MVTec AD.

    Args:
        settings: Those of :class:`.settings.MVTecSettings`, by name.

    Raises:
        OSError: If the data are missing, or the results cannot be written.
        RuntimeError: If a cell has failed.
        ValueError: If a number is out of range, the architecture has no network for a patch size, the experiment to be
            resumed had other settings, or there is no room for a cell.
    """
    task = MVTecSettings(**settings).absolute()
    place = task.place
    categories = task.categories or find_categories(task.root)
    folder = task.results / (task.name or task.experiment)
    begin(Storage(str(folder)), task.as_dict(), task.resume)
    methods = task.methods or get_args(MVTecMethod)
    cells = mvtec_jobs(task, categories, methods, task.scales, task.baseline_scale, task.report)
    tables = partial(mvtec_tables, baseline_patch_size=task.baseline_scale)
    run_experiment(folder, list(cells.values()), tables, task.as_dict(), place)


def one_class(**settings: Any) -> None:
    """Make the paper's Tables 2 and 6 (MNIST) or 7 (CIFAR-10): AUROC of images, with one class as the normal one.

    Args:
        settings: Those of :class:`.settings.OneClassSettings`, by name.

    Raises:
        OSError: If the results cannot be written.
        RuntimeError: If a cell has failed.
        ValueError: If there is no such class, a number is out of range, the architecture has no network for the patch
            size, the experiment to be resumed had other settings, there are loss weights but no images, or there is no
            room for a cell.
    """
    task = OneClassSettings(**settings).absolute()
    place = task.place
    classes = class_names(task.data, task.classes)
    weights = (task.loss_weights or PAPER_WEIGHTS) if task.teacher_images else ()
    folder = task.results / (task.name or task.data)
    begin(Storage(str(folder)), task.as_dict(), task.resume)
    teachers, cells = one_class_jobs(task, classes, task.methods or get_args(OneClassMethod), weights)
    tables = partial(one_class_tables, data=task.data)
    run_experiment(folder, [*teachers, *cells.values()], tables, task.as_dict(), place)
