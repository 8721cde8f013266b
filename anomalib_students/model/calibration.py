"""Passes over images beside the training: statistics of descriptors and of scores, and scores for a threshold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from anomalib_students.networks.statistics import RunningStatistics

from .hold_out import sample_indices
from .student_teacher import PLACES

if TYPE_CHECKING:
    from .training import StudentTraining


@torch.no_grad()
def normalise_descriptors(module: "StudentTraining", training: AnomalibDataset) -> None:
    """Set mean and standard deviation of the teachers' descriptors over a sample of the training images (eq. 7)."""
    scales, device = module.model.scales, _double_device(module)
    statistics = [
        RunningStatistics(len(scale.descriptor_mean) + len(scale.fine_mean), len(scale.whitening) > 0).to(device)
        for scale in scales
    ]
    sizes = set()
    for index, images in _sampled(module, training, "Descriptors of training images"):
        sizes.add(images.shape[-2:])
        # In the light of the training, or components that follow it would count as nearly constant; for an image the
        # same with any number of processes.
        jittered = module.model.jitter(images, seed=index)
        for scale, of_scale in zip(scales, statistics, strict=True):
            for tile in module.model.tiles(scale, jittered):
                of_scale.update(scale.descriptor_vectors(tile, module.model.output_stride))
    for scale, of_scale in zip(scales, statistics, strict=True):
        with of_scale.sync_context():
            scale.normalise_descriptors(of_scale)
    if len(sizes) > 1:
        rank_zero_warn("The images differ in size, and are not resized: a test can't measure AUPRO, which is NaN.")


@torch.no_grad()
def weigh_errors(module: "StudentTraining", seen: AnomalibDataset) -> None:
    """Set how errors are weighted, and where they are expected, by images that the students learn from, if any."""
    settings, scales, device = module.settings, module.model.scales, _double_device(module)
    if len(seen) == 0 or not (settings.whitening or settings.local_mean):
        return
    kinds = (settings.dim, True), (PLACES**2, False), (1, False)
    statistics = [[RunningStatistics(dim, covariance).to(device) for dim, covariance in kinds] for _ in scales]
    for _, images in _sampled(module, seen, "Errors of training images"):
        for scale, of_scale in zip(scales, statistics, strict=True):
            scale.update_errors(images, module.model.output_stride, module.model.tile_side, *of_scale)
    for scale, (differences, places, excesses) in zip(scales, statistics, strict=True):
        with differences.sync_context(), places.sync_context(), excesses.sync_context():
            scale.weigh_errors(differences, places, excesses)


@torch.no_grad()
def normalise_scores(module: "StudentTraining", held_out: AnomalibDataset) -> None:
    """Set mean and standard deviation of the scores over the held-out images (eq. 11)."""
    scales = module.model.scales
    statistics = [RunningStatistics(2).to(_double_device(module)) for _ in scales]
    for _, images in _sampled(module, held_out, "Scores of held-out images"):
        for scale, of_scale in zip(scales, statistics, strict=True):
            measures = scale.measure(scale.view(images), module.model.output_stride, module.model.tile_side)
            of_scale.update(torch.stack(measures, dim=-1).flatten(0, -2))
    for scale, of_scale in zip(scales, statistics, strict=True):
        with of_scale.sync_context():
            scale.normalise_scores(of_scale)


@torch.no_grad()
def scores_of(module: "StudentTraining", dataset: AnomalibDataset) -> torch.Tensor:
    """Score the images of a data set: scores of shape ``(n,)``, in its order, the same in all processes."""
    scores = torch.zeros(len(dataset), device=module.device)
    for index, images in _sampled(module, dataset, "Threshold by good images"):
        scores[index] = cast("torch.Tensor", module.model.predict(images).pred_score)
    # Each process has filled in its share, which is none if there are fewer images than processes.
    if module.trainer.world_size > 1:
        scores = cast("torch.Tensor", module.all_gather(scores)).sum(dim=0)
    return scores[sample_indices(len(dataset))].cpu()


def _sampled(
    module: "StudentTraining", dataset: AnomalibDataset, description: str
) -> Iterator[tuple[int, torch.Tensor]]:
    """Iterate over this process's share of a sample of a data set: indices, and pre-processed images, one at a time."""
    trainer = module.trainer
    sample = sample_indices(len(dataset))[trainer.global_rank :: trainer.world_size]
    # Tiled ensembles have a function that cuts tiles out of the images.
    datamodule = cast("AnomalibDataModule", getattr(trainer, "datamodule", None))
    collate = datamodule.external_collate_fn or dataset.collate_fn
    # Without a generator of its own, it would draw from that of the training.
    loader = DataLoader(Subset(dataset, sample), collate_fn=collate, generator=torch.Generator())
    # None shows it only in a terminal.
    progress = tqdm(loader, description, leave=False, disable=trainer.global_rank > 0 or None)
    for index, batch in zip(sample, progress, strict=True):
        if trainer.received_sigterm:
            raise SIGTERMException
        images = batch.image.to(module.device)
        if isinstance(module.pre_processor, PreProcessor) and module.pre_processor.transform is not None:
            images = module.pre_processor.transform(images)
        with trainer.precision_plugin.forward_context():
            yield index, images


def _double_device(module: "StudentTraining") -> torch.device:
    """The device of a model, or the CPU, if the device does not compute in float64."""
    return torch.device("cpu") if module.device.type == "mps" else module.device
