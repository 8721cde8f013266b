"""Arguments that the command lines of the Ray jobs share."""

import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import PositiveFloat, PositiveInt

from anomalib_students.cluster.storage import Storage
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.teacher.data import find_images
from anomalib_students.teacher.pretrain import PretrainSettings
from anomalib_students.teacher.training import PlainSettings

__all__ = ["SET_BY_JOBS", "add_cluster", "add_training", "parse", "pretraining_of"]

SET_BY_JOBS = {"output", "results", "resume", "accelerator", "devices", "strategy", "trainer_arguments"}
"""Arguments of the pretraining that all jobs set themselves."""

# Fields of dataclasses are described where they are declared.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def add_training(parser: ArgumentParser, name: str, chosen: Collection[str]) -> None:
    """Add the arguments of data, model and training, except those of the model that the job has ``chosen``."""
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
    parser.add_class_arguments(UninformedStudents, "model", skip=set(chosen), instantiate=False)
    parser.add_argument("--trainer", type=PlainSettings, default={}, help="Arguments of Lightning's trainer.")


def add_cluster(parser: ArgumentParser, group: str) -> None:
    """Add the arguments of the cluster and the workers; ``group`` is what these train together, say ``"ensemble"``."""
    where = parser.add_argument_group("Where to train")
    where.add_argument("--address", type=str | None, help="Address of a Ray cluster, or auto; by default this machine.")
    where.add_argument(f"--workers_per_{group}", dest="workers", type=PositiveInt, default=1, help="Processes of each.")
    where.add_argument("--cpus_per_worker", type=PositiveFloat, default=1, help="CPU cores of each.")
    where.add_argument("--gpus_per_worker", type=float | None, help="GPUs of each, or fractions; by default 1, if any.")
    where.add_argument("--max_failures", type=int, default=2, help="How often a training whose workers die is resumed.")


def parse(parser: ArgumentParser, args: Sequence[str], without_data: Path) -> Namespace:
    """Parse a command line, after the settings in the file ``without_data`` if it names no data.

    Data, model and trainer are returned as plain data, which can be sent to workers.
    """
    settings = parser.parse_args(list(args))
    if settings.data is None:
        settings = parser.parse_args(["--config", str(without_data), *args])
    plain = json.loads(parser.dump(settings, format="json"))
    for name in ("data", "model", "trainer"):
        settings[name] = plain.get(name, {})
    path = settings.storage_path
    settings.storage = Storage(f"{path if '://' in path else Path(path).resolve()}/{settings.name}")
    return settings


def pretraining_of(settings: Namespace) -> dict[str, Any]:
    """Take the arguments of the pretraining, with absolute paths; raise an OSError if there are no images."""
    find_images(settings.images)
    values = {field.name: settings[field.name] for field in fields(PretrainSettings) if field.name in settings}
    return {name: value.resolve() if isinstance(value, Path) else value for name, value in values.items()}
