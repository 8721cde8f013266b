"""What trainings of several categories have in common, in a form that travels to the workers of a cluster.

Of the processes of a cluster only those that train import anomalib, which takes seconds.
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
"""What stands for the name of the category in the arguments of a data module."""


@dataclass(frozen=True)
class Experiment:
    """Settings of a grid of trainings over categories and patch sizes.

    Attributes:
        data: Data module: ``class_path`` and ``init_args``, in which ``{category}`` stands for the name of a category.
            Where it is nowhere, the name is passed as the argument ``category``.
        model: Arguments of :class:`UninformedStudents`, but for the patch sizes.
        trainer: Arguments of Lightning's trainer.
        seed: Seed of each training.
        storage_path: Folder that all nodes reach, or a cloud URI.
        name: Name of the grid, whose folder lies in the storage path.
        workers: Processes that train an ensemble together.
        export: Format to which the finished models are exported, as in ``anomalib export``; None for none.
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
        """Make the data module of a category.

        Args:
            category: Name of the category; None if the data have but one.

        Returns:
            Data module, not set up yet.

        Raises:
            argparse.ArgumentError: If there is no such data module, or it does not take the arguments.
        """
        settings = {"class_path": self.data["class_path"], "init_args": dict(self.data.get("init_args") or {})}
        # No more processes than the worker has cores beside its own, and not anomalib's eight.
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
        """Make the model of one patch size, its weights drawn from the seed.

        Args:
            patch_size: Side p of the receptive field in pixels.

        Returns:
            Model, not trained yet.

        Raises:
            argparse.ArgumentError: If the model does not take the arguments.
            ValueError: If one of them is out of range.
        """
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
        """Return what decides on the results as plain data. Whether there are reports does not."""
        return {name: value for name, value in asdict(self).items() if name != "report"}


def label(category: str | None) -> str:
    """Name of a category for folders and reports; data that have but one need not name it."""
    return category or "data"


def _replace(value: Any, category: str) -> Any:  # noqa: ANN401
    """Put the name of the category into all strings of nested settings."""
    if isinstance(value, str):
        return value.replace(CATEGORY, category)
    if isinstance(value, Mapping):
        return {key: _replace(entry, category) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(entry, category) for entry in value]
    return value
