"""The command ``report``: from a checkpoint and data to an HTML file."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, cast

import torch
from anomalib.data import AnomalibDataModule
from rich.console import Console

from anomalib_students.files import check_output

if TYPE_CHECKING:
    from anomalib_students.model.lightning_model import UninformedStudents

__all__ = ["load_model", "report"]


def report(
    checkpoint: Path,
    data: AnomalibDataModule,
    output: Path = Path("report.html"),
    n_images: int = 500,
    device: str | None = None,
) -> None:
    """Write an HTML file that shows what a model decides on the test images of its data, and where it is wrong.

    The file needs no other file and no network. The numbers are those of `anomalib test` with the same arguments.

    Args:
        checkpoint: Checkpoint of a trained model.
        data: Data module of anomalib, whose test images are shown.
        output: HTML file to write.
        n_images: Most images that are shown: false alarms come first, then misses. The numbers are over all.
        device: Device to compute on, such as cpu or cuda:1. By default the accelerator, if there is one.

    Raises:
        OSError: If checkpoint or data are missing, or the output cannot be written.
        RuntimeError: If there is no such device.
        ValueError: If there are no test images, one of them or the checkpoint cannot be read, or a number is out of
            range.
    """
    # Imports all of anomalib's models, which the other commands do not need.
    from .page import write_report

    check_output(output, ".html", "A report")
    model = load_model(checkpoint, device)
    write_report(
        model,
        data,
        output,
        source=str(checkpoint),
        n_images=n_images,
        accelerator=model.device.type,
        devices=1 if model.device.index is None else [model.device.index],
        enable_model_summary=False,
    )
    Console(soft_wrap=True).print(f"The report is in {output}", highlight=False, markup=False)


def load_model(checkpoint: Path, device: str | torch.device | None = None) -> UninformedStudents:
    """Load a trained model in evaluation mode, by default to the accelerator if there is one.

    Raises a ``FileNotFoundError`` or ``ValueError`` if the file is missing or not a checkpoint of this model.
    """
    if not checkpoint.is_file():
        msg = f"There is no checkpoint {checkpoint}: name the *.ckpt file of a trained model."
        raise FileNotFoundError(msg)
    from anomalib_students.model.lightning_model import UninformedStudents

    try:
        model = UninformedStudents.load_from_checkpoint(checkpoint, map_location="cpu")
    except (AttributeError, EOFError, KeyError, RuntimeError, TypeError, UnpicklingError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        msg = f"{checkpoint} is no checkpoint of UninformedStudents: {reason}"
        raise ValueError(msg) from error
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    return cast("UninformedStudents", model).eval().to(device)
