"""Anomaly maps and descriptors of single images, computed by a trained model."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Transform

from anomalib_students.model.anomaly_map import MULTI_SCALE, combine_scales, predictive_uncertainty
from anomalib_students.model.describers import PixelDescriber, zoom
from anomalib_students.model.ensemble import StudentTeacherEnsemble
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.model.torch_model import UninformedStudentsModel
from anomalib_students.networks.dense import Patches
from anomalib_students.report.results import name_of, visible_image

from .panels import ScoredImage
from .pixels import Pixels, PixelSampler

__all__ = [
    "describe_patches",
    "describe_pixels",
    "pre_process",
    "sample_patches",
    "sample_pixels",
    "scale_maps",
    "score_image",
]

PATCHES_AT_ONCE = 64
"""Images that are described together, where each is one patch."""


def pre_process(model: UninformedStudents, batch: ImageBatch) -> tuple[torch.Tensor, np.ndarray | None]:
    """Prepare an image for the model as anomalib's engine does.

    The image ``(1, 3, H, W)`` is on the device of the model; the mask ``(H, W)`` is None if the batch has none.
    """
    image, mask = cast("torch.Tensor", batch.image), batch.gt_mask
    transform = _transform(model)
    if transform is not None:
        image, mask = transform(image, mask)
    return image.to(model.device), None if mask is None else mask[0].numpy().astype(bool)


@torch.no_grad()
def scale_maps(model: UninformedStudentsModel, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the anomaly map of each scale (eq. 11), and if there are several, that of all together (eq. 12).

    The maps ``(B, 1, H, W)`` are in standard deviations from the mean of anomaly-free pixels, by their names
    (``"p = 33"`` and so on, and :data:`MULTI_SCALE`).
    """
    maps = {
        f"p = {patch_size}": ensemble(images, model.describer)
        for patch_size, ensemble in zip(model.patch_sizes, model.scales, strict=True)
    }
    return {**maps, MULTI_SCALE: combine_scales(list(maps.values()))} if len(maps) > 1 else maps


def score_image(model: UninformedStudents, batch: ImageBatch) -> ScoredImage:
    """Score the image of a batch of one, as it was read."""
    network_input, mask = pre_process(model, batch)
    maps = scale_maps(model.model, network_input)
    return ScoredImage(
        name=name_of(cast("Sequence[str]", batch.image_path)[0]),
        image=visible_image(model, network_input[0]),
        mask=mask,
        maps={name: scores[0, 0].cpu().numpy() for name, scores in maps.items()},
    )


def sample_pixels(model: UninformedStudents, examples: Iterable[ImageBatch], samplers: Sequence[PixelSampler]) -> None:
    """Let the pixels of images pass by the samplers of the scales.

    Raises a ``ValueError`` if an image has neither mask nor label.
    """
    networks = model.model
    for batch in examples:
        image, mask = pre_process(model, batch)
        truth = np.full(tuple(image.shape[-2:]), _label(batch)) if mask is None else mask
        for ensemble, sampler in zip(networks.scales, samplers, strict=True):
            for pixels in describe_pixels(ensemble, image, truth, networks.output_stride, networks.describer.max_tile):
                sampler.add(pixels)


def sample_patches(model: UninformedStudents, examples: Iterable[ImageBatch], samplers: Sequence[PixelSampler]) -> None:
    """Let images, each of which is one patch, pass by the samplers of the scales.

    Raises a ``ValueError`` if an image has no label.
    """
    examples = iter(examples)
    while batches := list(islice(examples, PATCHES_AT_ONCE)):
        images = [pre_process(model, batch)[0] for batch in batches]
        labels = np.array([_label(batch) for batch in batches])
        for ensemble, sampler in zip(model.model.scales, samplers, strict=True):
            sampler.add(describe_patches(ensemble, images, labels))


@torch.no_grad()
def describe_pixels(
    ensemble: StudentTeacherEnsemble, image: torch.Tensor, is_anomalous: np.ndarray, output_stride: int, max_tile: int
) -> Iterator[Pixels]:
    """Describe every s-th pixel of an image ``(1, 3, H, W)``, one part after the other, row by row."""
    truth = is_anomalous[::output_stride, ::output_stride]
    for part in PixelDescriber(max_tile, output_stride).patches(ensemble.teacher, image):
        yield _pixels(ensemble, part, truth[part.rows, part.columns].ravel())


@torch.no_grad()
def describe_patches(
    ensemble: StudentTeacherEnsemble, images: Sequence[torch.Tensor], is_anomalous: np.ndarray
) -> Pixels:
    """Describe each image ``(1, 3, H, W)``, of any size, as the one patch that it is zoomed to (Section 4.1)."""
    patches = torch.cat([zoom(image, ensemble.teacher.patch_size) for image in images])
    return _pixels(ensemble, Patches(patches), is_anomalous)


def _pixels(ensemble: StudentTeacherEnsemble, patches: Patches, is_anomalous: np.ndarray) -> Pixels:
    """Flatten the ensemble's output for patches, row by row."""
    students, target = ensemble.describe(patches)
    teacher, mean = (
        descriptors.movedim(1, -1).flatten(0, -2).cpu().numpy()
        for descriptors in (target, students.float().mean(dim=0))
    )
    return Pixels(
        teacher=teacher,
        students=mean,
        uncertainty=predictive_uncertainty(students).flatten().cpu().numpy(),
        score=ensemble.score(students, target).flatten().cpu().numpy(),
        is_anomalous=is_anomalous,
    )


def _label(batch: ImageBatch) -> bool:
    """Return whether an image is anomalous as a whole. Raises a ``ValueError`` if the data have no labels."""
    if batch.gt_label is None:
        (path,) = batch.image_path or ("an image",)
        msg = f"The data do not say whether {path} is anomalous: choose data with masks or labels."
        raise ValueError(msg)
    return bool(batch.gt_label[0])


def _transform(model: AnomalibModule) -> Transform | None:
    return model.pre_processor.transform if isinstance(model.pre_processor, PreProcessor) else None
