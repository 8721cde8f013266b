"""The commands ``maps`` and ``embedding``: from a checkpoint and data to a PNG file."""

from pathlib import Path

from anomalib.data import AnomalibDataModule
from matplotlib.figure import Figure
from rich.console import Console

from anomalib_students.files import check_output, replace_file
from anomalib_students.paper.report import png_bytes
from anomalib_students.report.command import load_model
from anomalib_students.report.results import find_test_images

from .embedding import draw_embedding
from .examples import Images, image_files, named_images, read_examples, spread_over_types
from .panels import Layout, draw_panels
from .pixels import PixelSampler

__all__ = ["embedding", "maps"]

MOST_DPI = 1200
MOST_IMAGES = 50
"""Images in a panel: more would not fit in one picture."""
MOST_PIXELS = 500
"""Pixels of each class in an embedding, whose time and memory grow with their square."""


def maps(
    checkpoint: Path,
    output: Path,
    data: AnomalibDataModule | None = None,
    images: list[Path] | None = None,
    n_images: int = 4,
    images_as: Layout = "rows",
    show_images: bool = True,
    shared_colours: bool = True,
    dpi: int = 150,
    device: str | None = None,
) -> None:
    """Draw anomaly maps of some images: of each scale, and of all together (Figures 1, 5 and 6 of the paper).

    Args:
        checkpoint: Checkpoint of a trained model.
        output: PNG file to write.
        data: Data module of anomalib, whose test images are shown with their ground truth.
        images: Files or folders of images; with data, test images of them by the ends of their paths, such as
            crack/000.png. By default defective test images, the first of each type of defect.
        n_images: Number of images that are shown if none are named.
        images_as: Whether an image is a row (Figure 5) or a column (Figures 1 and 6).
        show_images: Show the images and their ground truth beside the maps. Check whether their licence allows it.
        shared_colours: A colour is the same score in the maps of all images; otherwise each map has its own colours.
        dpi: Pixels per inch; a figure is at most 8.3 inches wide.
        device: Device to compute on, such as cpu or cuda:1. By default the accelerator, if there is one.

    Raises:
        OSError: If checkpoint or data are missing, or the output cannot be written.
        RuntimeError: If there is no such device.
        ValueError: If there are no images to show, one of them or the checkpoint cannot be read, the model has no maps,
            or a number is out of range.
    """
    # Imports all of anomalib's models, which the other commands do not need.
    from .scores import score_image

    check_output(output, ".png", "A figure")
    _check("dpi", dpi, MOST_DPI)
    dataset: Images
    if data is None:
        dataset = image_files(images or [])
    elif images:
        dataset = named_images(find_test_images(data), images)
    else:
        dataset = spread_over_types(find_test_images(data), n_images, only_defective=True)
    _check("The number of images", len(dataset), MOST_IMAGES)
    model = load_model(checkpoint, device)
    if model.model.mode == "patch":
        msg = f"{checkpoint} is of a model with mode patch, which has no maps to draw: try the command embedding."
        raise ValueError(msg)
    scored = [score_image(model, batch) for batch in read_examples(dataset, "Scoring images")]
    _write(draw_panels(scored, show_images, images_as, shared_colours), output, dpi)


def embedding(
    checkpoint: Path,
    output: Path,
    data: AnomalibDataModule,
    n_images: int | None = None,
    n_pixels: int = 30,
    seed: int = 0,
    dpi: int = 150,
    device: str | None = None,
) -> None:
    """Draw descriptors of normal and anomalous pixels in the plane, and a histogram of the scores (Figure 4).

    The descriptors of the teacher and the means of the students are embedded by multidimensional scaling. The larger
    the circle around the mean of the students, the less they agree. For a model with mode patch, the points are whole
    images.

    Args:
        checkpoint: Checkpoint of a trained model.
        output: PNG file to write.
        data: Data module of anomalib, whose test images are described.
        n_images: Number of images, spread over the types of defects and the good ones; by default all.
        n_pixels: Pixels, or whole images, of each class whose descriptors are shown, drawn from all that the model
            scores.
        seed: Seed of the draw.
        dpi: Pixels per inch; the figure is 8.3 inches wide.
        device: Device to compute on, such as cpu or cuda:1. By default the accelerator, if there is one.

    Raises:
        OSError: If checkpoint or data are missing, or the output cannot be written.
        RuntimeError: If there is no such device.
        ValueError: If there are no test images, one of them or the checkpoint cannot be read, the data have neither
            masks nor labels, or a number is out of range.
    """
    from .scores import sample_patches, sample_pixels

    check_output(output, ".png", "A figure")
    _check("dpi", dpi, MOST_DPI)
    _check("n_pixels", n_pixels, MOST_PIXELS)
    dataset = spread_over_types(find_test_images(data), n_images)
    model = load_model(checkpoint, device)
    networks = model.model
    samplers = {f"p = {patch_size}": PixelSampler(n_pixels, seed) for patch_size in networks.patch_sizes}
    is_whole = networks.mode == "patch"
    sample = sample_patches if is_whole else sample_pixels
    sample(model, read_examples(dataset, "Describing images"), list(samplers.values()))
    _write(draw_embedding(samplers, "images" if is_whole else "pixels"), output, dpi)


def _check(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        msg = f"{name} must be between 1 and {most}, got {value}."
        raise ValueError(msg)


def _write(figure: Figure, output: Path, dpi: int) -> None:
    replace_file(output, png_bytes(figure, dpi))
    Console(soft_wrap=True).print(f"The figure is in {output}", highlight=False, markup=False)
