"""Student-teacher ensembles for one or several patch sizes (Sections 3.2 and 3.3)."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import cast, get_args

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import nn

from anomalib_students.networks.dense import SMALLEST_TILE, check_dense, cut_tiles
from anomalib_students.networks.patch_network import Architecture, check_architecture

from .anomaly_map import check_score_window, combine_scales, prediction
from .augment import TrainingMode, jitter_light, training_tiles
from .loss import painted_hard_fraction
from .student_teacher import StudentTeacher, split_batch

__all__ = ["UninformedStudentsModel"]


class UninformedStudentsModel(nn.Module):
    """Teachers and students at one or several scales.

    The scales are independent of each other: from the same seed, each gets the same weights and sees the same samples
    of the images as in a model of its own, so that models of single scales can be merged.

    Args:
        patch_sizes: Sides p of the receptive fields, which the architecture has a network for.
        n_students: Number M of students for each patch size, at least 1.
        output_stride: Distance in pixels between descriptors at inference: 1, 2, 4 or 8.
        training_mode: ``"phase"`` or ``"dense"``.
        descriptor_dim: Dimension d of the descriptors.
        max_tile: Largest side in pixels of what is described at once, which bounds the memory; the scores are those of
            the whole image. Smaller images are described together up to that size.
        architecture: ``"medium"`` for deep networks of p = 33 and 65, ``"light"`` for the cheapest networks,
            ``"paper"`` for the paper's.
        hard_fraction: Fraction of the pixels of a training step, in ``(0, 1]``, that the loss is the mean of: the
            hardest. 1 for all, as eq. 7.
        light_jitter: Strength of random changes of the light in training images, see
            :func:`~anomalib_students.model.augment.jitter_light`; 0 for none.
        synthetic_defects: Fraction of the training images, in ``[0, 1]``, that are painted with synthetic defects for
            only the students, see :func:`~anomalib_students.model.augment.paint_defects`.
        score_window: Side in pixels, an odd number, of the window whose largest mean score is the score of the image;
            1 for the maximum of the map.
        shared_layers: First layers of the teacher, whose output the students continue from.

    Attributes:
        tiler: Set by anomalib's ``TilerConfigurationCallback``. The side of its tiles then replaces ``max_tile``, and
            the scores are those of the whole image too.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = UninformedStudentsModel(patch_sizes=(33,), n_students=2).eval()
        >>> predictions = model(torch.rand(1, 3, 64, 64))
        >>> predictions.anomaly_map.shape, predictions.pred_score.shape
        (torch.Size([1, 1, 64, 64]), torch.Size([1]))
    """

    def __init__(
        self,
        patch_sizes: Sequence[int] = (65,),
        n_students: int = 1,
        output_stride: int = 4,
        training_mode: TrainingMode = "phase",
        descriptor_dim: int = 128,
        max_tile: int = 512,
        architecture: Architecture = "medium",
        hard_fraction: float = 0.1,
        light_jitter: float = 1.0,
        synthetic_defects: float = 0.5,
        score_window: int = 33,
        shared_layers: int = 2,
    ) -> None:
        super().__init__()
        for patch_size in patch_sizes:
            check_architecture(architecture, patch_size)
        _check_arguments(patch_sizes, n_students, training_mode, hard_fraction, light_jitter, synthetic_defects)
        check_score_window(score_window)
        check_dense(output_stride, max_tile)
        self.hard_fraction = hard_fraction
        self.score_window = score_window
        self.light_jitter = light_jitter
        self.synthetic_defects = synthetic_defects
        self.patch_sizes = tuple(patch_sizes)
        self.architecture = architecture
        self.output_stride = output_stride
        self.training_mode = training_mode
        self.max_tile = max_tile
        self.tiler: Tiler | None = None
        # Keyed by the patch size, which identifies the scales of a checkpoint.
        self.ensembles = nn.ModuleDict()
        seed = _draw_seed()
        for size in patch_sizes:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + size)
                self.ensembles[f"p{size}"] = StudentTeacher(
                    size, n_students, descriptor_dim, architecture, shared_layers
                )

    @property
    def scales(self) -> list[StudentTeacher]:
        """Teacher and students of each scale, in the order of the patch sizes."""
        return [cast("StudentTeacher", scale) for scale in self.ensembles.values()]

    @property
    def tile_side(self) -> int:
        """Largest side in pixels of what is described at once."""
        if self.tiler is None:
            return self.max_tile
        return max(SMALLEST_TILE, self.tiler.tile_size_h, self.tiler.tile_size_w)

    def forward(self, images: torch.Tensor) -> torch.Tensor | InferenceBatch:
        """Compute the loss in training, and predictions in evaluation.

        Args:
            images: Normalised images of shape ``(B, 3, H, W)``.

        Returns:
            In training, the loss of all students of all patch sizes (eq. 7), a scalar. In evaluation, the anomaly map
            of shape ``(B, 1, H, W)`` (eq. 12) and the score of the image, of shape ``(B,)``.

        Raises:
            ValueError: If a pixel or a score is not finite; exported models score such images as anomalous.
        """
        return self.loss(images) if self.training else self.predict(images)

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a training step; see :meth:`forward`."""
        seed = _draw_seed()
        images = self.jitter(images, seed)
        losses = []
        for scale in self.scales:
            generator = torch.Generator().manual_seed(seed + scale.patch_size)
            tiles, painted, n_painted = training_tiles(
                scale.teacher, images, self.training_mode, self.synthetic_defects, generator
            )
            stride = scale.teacher.stride if self.training_mode == "phase" else 1
            losses.append(scale.loss(tiles, stride, painted, painted_hard_fraction(self.hard_fraction, n_painted)))
        return torch.stack(losses).sum()

    def predict(self, images: torch.Tensor) -> InferenceBatch:
        """Compute predictions, in training too; see :meth:`forward`."""
        # Not every inferencer turns gradients off, and kept activations would fill the memory.
        is_exporting = torch.compiler.is_exporting()
        with nullcontext() if is_exporting else torch.no_grad():
            chunks = [images] if is_exporting else split_batch(images, self.tile_side**2)
            maps = [
                combine_scales([scale(chunk, self.output_stride, self.tile_side) for scale in self.scales])
                for chunk in chunks
            ]
            return prediction(torch.cat(maps), images, self.score_window)

    def jitter(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        """Show images of shape ``(B, 3, H, W)`` in the random light of a training."""
        return jitter_light(images, self.light_jitter, torch.Generator().manual_seed(seed))

    def tiles(self, scale: StudentTeacher, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut images into the tiles that a scale describes one by one."""
        for row in cut_tiles(images, scale.patch_size, self.output_stride, self.tile_side):
            yield from row


@torch.compiler.disable
def _draw_seed() -> int:
    """Draw a seed from which each patch size derives its own, so that none of them depends on the others' presence."""
    return int(torch.randint(2**62, ()))


def _check_arguments(
    patch_sizes: Sequence[int],
    n_students: int,
    training_mode: str,
    hard_fraction: float,
    light_jitter: float,
    synthetic_defects: float,
) -> None:
    if not patch_sizes or len(set(patch_sizes)) != len(patch_sizes):
        msg = f"patch_sizes must name at least one patch size, each once; got {tuple(patch_sizes)}."
        raise ValueError(msg)
    if n_students < 1:
        msg = f"n_students must be at least 1, got {n_students}."
        raise ValueError(msg)
    if training_mode not in get_args(TrainingMode):
        msg = f"training_mode must be one of {get_args(TrainingMode)}, got {training_mode!r}."
        raise ValueError(msg)
    if not 0 < hard_fraction <= 1:
        msg = f"hard_fraction must lie in (0, 1], got {hard_fraction}."
        raise ValueError(msg)
    if not 0 <= light_jitter < float("inf"):
        msg = f"light_jitter must be at least 0 and finite, got {light_jitter}."
        raise ValueError(msg)
    if not 0 <= synthetic_defects <= 1:
        msg = f"synthetic_defects must lie in [0, 1], got {synthetic_defects}."
        raise ValueError(msg)
