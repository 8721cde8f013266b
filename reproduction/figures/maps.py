"""The command ``maps``: anomaly maps of test images, from the checkpoint of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch
from anomalib.data.utils import LabelName
from matplotlib.figure import Figure
from tqdm import tqdm

from anomalib_students.files import check_output
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.report.page import load_model
from anomalib_students.report.results import visible_image

from .panels import ScoredImage, draw_panels

__all__ = ["maps", "score_image"]


def maps(
    checkpoint: Path,
    output: Path,
    data: AnomalibDataModule,
    images: list[str] | None = None,
    n_images: int = 4,
    show_images: bool = True,
    shared_colours: bool = True,
    dpi: int = 150,
) -> None:
    """Draw anomaly maps of test images: of each scale, and of all together (Figures 1, 5 and 6).

    Args:
        checkpoint: Checkpoint of a trained model.
        output: PNG file to write.
        data: Data module of anomalib.
        images: Test images by the ends of their paths, such as crack/000.png. By default defective ones, the first of
            each type of defect.
        n_images: Number of images that are shown if none are named.
        show_images: Show the images and their ground truth above the maps. Check whether their licence allows it.
        shared_colours: A colour is the same score in the maps of all images; otherwise each map has its own colours.
        dpi: Pixels per inch; a figure is at most 8.3 inches wide.

    Raises:
        OSError: If checkpoint or data are missing, or the output cannot be written.
        ValueError: If there are no such images, or one of them or the checkpoint cannot be read.
    """
    check_output(output, ".png", "A figure")
    data.prepare_data()
    data.setup()
    dataset = data.test_data
    chosen = spread_over_types(dataset, n_images) if images is None else named_images(dataset, images)
    model = load_model(checkpoint)
    batches = (cast("ImageBatch", ImageBatch.collate([chosen[position]])) for position in range(len(chosen)))
    scored = [score_image(model, batch) for batch in tqdm(batches, "Scoring", len(chosen), leave=False)]
    save(draw_panels(scored, show_images, shared_colours), output, dpi)


def save(figure: Figure, output: Path, dpi: int) -> None:
    """Write a figure and say so."""
    figure.savefig(output, dpi=dpi)
    print(f"The figure is in {output}")


def spread_over_types(dataset: AnomalibDataset, n_images: int) -> AnomalibDataset:
    """Choose defective images: the first of each type of defect, then the second, and so on.

    The choice depends only on the data, so that no model is shown at its best. The type of a defect is the name of the
    folder, as in MVTec AD.
    """
    samples = dataset.samples[dataset.samples["label_index"] == LabelName.ABNORMAL]
    types = samples["image_path"].map(lambda path: Path(path).parent.name)
    rank_in_type = samples.groupby(types).cumcount()
    return dataset.subsample(sorted(rank_in_type.sort_values(kind="stable").index[:n_images]))


def named_images(dataset: AnomalibDataset, ends: Sequence[str]) -> AnomalibDataset:
    """Choose images by the ends of their paths; raise a ``ValueError`` if one fits none, or several."""
    paths = dataset.samples["image_path"]
    found = [[index for index, path in enumerate(paths) if Path(path).match(end)] for end in ends]
    for end, indices in zip(ends, found, strict=True):
        if len(indices) != 1:
            types = sorted({Path(path).parent.name for path in paths})
            msg = f"{len(indices)} test images are named {end}: name them as crack/000.png, in {', '.join(types)}."
            raise ValueError(msg)
    return dataset.subsample(sorted({index for (index,) in found}))


@torch.no_grad()
def score_image(model: UninformedStudents, batch: ImageBatch) -> ScoredImage:
    """Compute the anomaly maps of the image of a batch of one: of each scale (eq. 11), and of several (eq. 12)."""
    image, mask = model.pre_processor.transform(batch.image, batch.gt_mask)
    scales: dict[str, torch.Tensor] = {}
    hooks = [
        ensemble.register_forward_hook(lambda _module, _inputs, scores, name=name: scales.update({name: scores}))
        for name, ensemble in model.model.ensembles.items()
    ]
    try:
        together = model.model(image.to(model.device)).anomaly_map
    finally:
        for hook in hooks:
            hook.remove()
    found = {f"p = {name.removeprefix('p')}": scores for name, scores in scales.items()}
    if len(found) > 1:
        found["multi-scale"] = together
    return ScoredImage(
        name="/".join(Path(batch.image_path[0]).with_suffix("").parts[-2:]),
        image=visible_image(model, image[0]),
        mask=None if mask is None else mask[0].numpy().astype(bool),
        maps={name: scores[0, 0].cpu().numpy() for name, scores in found.items()},
    )
