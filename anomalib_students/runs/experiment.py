"""What the trainings of a grid share, in a form that can be sent to the workers of a cluster.

anomalib takes seconds to import, so that only the processes that train import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

from .storage import Storage
from .workers import Workers

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

    from anomalib_students.model.lightning_model import UninformedStudents

__all__ = ["CATEGORY", "Experiment", "label"]

CATEGORY = "{category}"
"""Placeholder for the name of the category in the arguments of a data module."""


@dataclass(frozen=True)
class Experiment:
    """Settings of a grid of trainings over categories and patch sizes.

    Attributes:
        data: Data module: ``class_path`` and ``init_args``, in which ``{category}`` stands for the name of a category.
            If no argument contains it, the argument ``category`` is set.
        model: Arguments of :class:`UninformedStudents` except the patch sizes.
        trainer: Arguments of Lightning's trainer.
        seed: Seed of each training.
        storage_path: Folder that all nodes reach, or a cloud URI.
        name: Name of the grid, a folder in the storage path.
        workers: Processes that train an ensemble together.
        export: Export format of the finished models, as in ``anomalib export``; None for no export.
        report: Whether to write a report of each finished model.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    storage_path: str = "results/ray"
    name: str = "grid"
    workers: Workers = field(default_factory=Workers)
    export: str | None = None
    report: bool = False

    def create_datamodule(self, category: str | None) -> AnomalibDataModule:
        """Make the data module of a category; None if the data have only one."""
        settings = {"class_path": self.data["class_path"], "init_args": dict(self.data.get("init_args") or {})}
        # At most one process for each other core of the worker, instead of anomalib's eight.
        cores = max(0, int(self.workers.cpus) - 1)
        settings["init_args"]["num_workers"] = min(cores, settings["init_args"].get("num_workers", cores))
        if category is not None:
            filled_in = _replace(settings, category)
            if filled_in == settings:
                filled_in["init_args"]["category"] = category
            settings = filled_in
        from anomalib.data import AnomalibDataModule
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(AnomalibDataModule, "data", required=True)
        instances = parser.instantiate_classes(parser.parse_object({"data": settings}))
        return cast("AnomalibDataModule", instances.data)

    def create_model(self, patch_size: int) -> UninformedStudents:
        """Make the untrained model of one patch size, with weights drawn from the seed."""
        from jsonargparse import ArgumentParser
        from lightning.pytorch import seed_everything

        from anomalib_students.model.lightning_model import UninformedStudents

        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(UninformedStudents, "model")
        config = parser.parse_object({"model": {**self.model, "patch_sizes": [patch_size]}})
        seed_everything(self.seed, workers=True)
        return cast("UninformedStudents", parser.instantiate_classes(config).model)

    @property
    def storage(self) -> Storage:
        """Folder of the grid."""
        return Storage(f"{self.storage_path}/{self.name}")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that decide on the results as plain data, so without the report."""
        return {name: value for name, value in asdict(self).items() if name != "report"}


def label(category: str | None) -> str:
    """Name of a category for folders and reports, ``data`` if the data have only one."""
    return category or "data"


def _replace(value: Any, category: str) -> Any:  # noqa: ANN401
    """Fill in the name of the category in all strings of nested settings."""
    if isinstance(value, str):
        return value.replace(CATEGORY, category)
    if isinstance(value, Mapping):
        return {key: _replace(entry, category) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(entry, category) for entry in value]
    return value
