"""Write the report for a model in memory."""

from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule

from anomalib_students.files import check_output, replace_file

from .page import render_page
from .results import read_results
from .thresholds import find_thresholds

__all__ = ["write_report"]


def write_report(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    output: str | Path,
    source: str | None = None,
    n_images: int = 500,
    **trainer_arguments: Any,
) -> None:
    """Test a trained model, and write an HTML file that shows what it decides.

    Args:
        model: Trained model, with its pre- and post-processor.
        datamodule: Data module, set up or not, whose test images are shown.
        output: HTML file to write. An older file of that name is replaced.
        source: Where the model is from, for the head of the report, such as the path of its checkpoint.
        n_images: Most images that are shown, at least 1: mistakes come first. The numbers are over all.
        trainer_arguments: Arguments of Lightning's trainer, such as ``accelerator``.

    Raises:
        OSError: If the data cannot be found, or the file cannot be written.
        ValueError: If ``output`` is not named ``*.html``, ``n_images`` is less than 1, or there are no test images, or
            one that cannot be read.

    Example:
        >>> from anomalib.data import SampleParts
        >>> from anomalib.models import UninformedStudents
        >>> model = UninformedStudents.load_from_checkpoint("model.ckpt")  # doctest: +SKIP
        >>> write_report(model, SampleParts(), "report.html", accelerator="cpu")  # doctest: +SKIP
    """
    output = Path(output)
    check_output(output, ".html", "A report")
    if n_images < 1:
        msg = f"n_images must be at least 1, got {n_images}."
        raise ValueError(msg)
    thresholds = find_thresholds(model)
    results = read_results(model, datamodule, thresholds.score is not None, **trainer_arguments)
    html = render_page(results, thresholds, datamodule, model.name, source, n_images)
    replace_file(output, html.encode())
