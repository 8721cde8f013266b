"""What the command lines of the Ray jobs share: data and model, the cluster, and the workers on it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from anomalib_students.engine.plain_settings import PlainSettings
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.teacher.data import find_images
from anomalib_students.teacher.pretrain import PretrainSettings

from .experiment import Experiment
from .workers import Workers, gpus_of

__all__ = [
    "SET_BY_JOBS",
    "absolute",
    "add_cluster_arguments",
    "add_experiment_arguments",
    "experiment_of",
    "parse",
    "pretraining_of",
    "workers_of",
]

SET_BY_JOBS = frozenset(
    {"output", "results", "resume", "accelerator", "devices", "num_nodes", "strategy", "trainer_arguments"}
)
"""Arguments of the pretraining that all jobs set themselves."""

# Fields of dataclasses are described where they are declared.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def add_experiment_arguments(parser: ArgumentParser, name: str, chosen: set[str | int]) -> None:
    """Add the arguments of data, model and training, except those of the model that the job has ``chosen``."""
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of these arguments.")
    what = parser.add_argument_group("What to train")
    what.add_argument("--categories", type=list[str] | None, help="Categories of the data, if there are several.")
    what.add_argument("--seed", type=int, default=0, help="Seed of each training.")
    what.add_argument("--storage_path", default="results/ray", help="Folder that all nodes reach, or a cloud URI.")
    what.add_argument("--name", default=name, help="Name of this job: a folder in the storage path.")
    parser.add_subclass_arguments(
        AnomalibDataModule,
        "data",
        instantiate=False,
        help="Data module of anomalib, by default SampleParts. In its arguments {category} stands for the category; "
        "if none contains it, the argument category is set.",
    )
    parser.add_class_arguments(UninformedStudents, "model", skip=chosen, instantiate=False)
    parser.add_argument("--trainer", type=PlainSettings, default={}, help="Arguments of Lightning's trainer.")


def parse(parser: ArgumentParser, args: Sequence[str], without_data: Path) -> Namespace:
    """Parse a command line, after the settings in the file ``without_data`` if it names no data.

    Data, model and trainer are returned as plain data, which can be sent to workers.
    """
    settings = parser.parse_args(list(args))
    if settings.data is None:
        settings = parser.parse_args(["--config", str(without_data), *args])
    plain = json.loads(parser.dump(settings, format="json"))
    for name in ("data", "model", "trainer"):
        if name in settings:
            settings[name] = plain.get(name, {})
    return settings


def experiment_of(settings: Namespace, **others: Any) -> Experiment:
    """Make the experiment from the settings and others; a cluster must be connected."""
    return Experiment(
        data=settings.data,
        model=settings.model,
        trainer=settings.trainer,
        seed=settings.seed,
        storage_path=absolute(settings.storage_path),
        name=settings.name,
        workers=workers_of(settings),
        **others,
    )


def add_cluster_arguments(parser: ArgumentParser, group: str) -> None:
    """Add the arguments of the cluster and the workers; ``group`` is what these train together, say ``"ensemble"``."""
    where = parser.add_argument_group("Where to train")
    where.add_argument("--address", type=str | None, help="Address of a Ray cluster, or auto; by default this machine.")
    where.add_argument(
        f"--workers_per_{group}", dest="workers", type=int, default=1, help=f"Processes that train a {group} together."
    )
    where.add_argument("--cpus_per_worker", type=float, default=1, help="CPU cores of each.")
    where.add_argument(
        "--gpus_per_worker",
        type=float | None,
        help="GPUs of each; fractions share one. By default 1, if there are any.",
    )
    where.add_argument("--max_failures", type=int, default=2, help="How often a training whose workers die is resumed.")
    where.add_argument("--resume", type=bool, default=False, help="Resume this job where it stopped.")


def workers_of(settings: Namespace) -> Workers:
    """Make the group of workers from the settings; a cluster must be connected."""
    return Workers(
        number=settings.workers,
        cpus=settings.cpus_per_worker,
        gpus=gpus_of(settings.gpus_per_worker),
        max_failures=settings.max_failures,
    )


def pretraining_of(settings: Namespace, of_the_job: Collection[str]) -> dict[str, Any]:
    """Take the arguments of the pretraining that the job does not set itself, with absolute paths.

    Raise a FileNotFoundError if the folder of images is missing or empty.
    """
    names = {field.name for field in fields(PretrainSettings)} - set(of_the_job)
    values = {name: settings[name] for name in names if name in settings}
    values = {name: value.resolve() if isinstance(value, Path) else value for name, value in values.items()}
    if "images" in values:
        find_images(values["images"])
    return values


def absolute(storage_path: str) -> str:
    """Make a path of a storage absolute; leave a URI as it is."""
    return storage_path if "://" in storage_path else str(Path(storage_path).resolve())
