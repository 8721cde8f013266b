"""Student-teacher ensembles for one or several patch sizes (Sections 3.2 and 3.3)."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast, get_args

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import nn

from anomalib_students.networks.patch_network import Architecture, check_architecture

from .anomaly_map import check_score_window, combine_scales, prediction
from .describers import SMALLEST_TILE, Describer, Mode, create_describer
from .ensemble import StudentTeacherEnsemble, TrainingMode
from .photometric import PhotometricJitter
from .synthetic_defects import SyntheticDefects

__all__ = ["UninformedStudentsModel"]


class UninformedStudentsModel(nn.Module):
    """Student-teacher ensembles at several scales.

    The scales are independent of each other: from the same seed, each gets the same weights and sees the same parts of
    the images as in a model of its own, so that models of single scales can be merged.

    Args:
        patch_sizes: Sides p of the receptive fields, which the architecture has a network for.
        n_students: Number M of students for each patch size, at least 1.
        output_stride: Distance in pixels between descriptors at inference: 1, 2, 4 or 8.
        training_mode: ``"phase"`` or ``"dense"``.
        descriptor_dim: Dimension d of the descriptors.
        max_tile: Largest side in pixels of what is scored at once, with the scores of the whole image; see
            :class:`~anomalib_students.model.describers.Describer`.
        architecture: ``"medium"`` for deep networks of p = 33 and 65, ``"light"`` for the cheapest networks,
            ``"paper"`` for the paper's.
        mode: ``"pixel"`` to score every pixel, ``"patch"`` to zoom each image to p x p and score it as one patch
            (Section 4.1); ``output_stride`` and ``training_mode`` then have no effect.
        hard_fraction: Part of the pixels of a training step, in ``(0, 1]``, that the loss is the mean of: the hardest.
            1 for all, as eq. 7.
        light_jitter: Strength of random changes of the light in training images, see
            :class:`~anomalib_students.model.photometric.PhotometricJitter`; 0 for none.
        synthetic_defects: Part of the training images, in ``[0, 1]``, that are painted with synthetic defects for the
            students alone, see :class:`~anomalib_students.model.synthetic_defects.SyntheticDefects`.
        score_window: Side in pixels, an odd number, of the window whose largest mean score is the score of the image;
            1 for the maximum of the map.
        shared_layers: First layers that the students copy from the teacher and do not train.
        grad_checkpointing: Whether large batches are trained on in parts, whose activations are computed once more in
            the backward pass, so that they do not fill the memory.

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
        mode: Mode = "pixel",
        hard_fraction: float = 0.1,
        light_jitter: float = 1.0,
        synthetic_defects: float = 0.5,
        score_window: int = 33,
        shared_layers: int = 2,
        grad_checkpointing: bool = True,
    ) -> None:
        super().__init__()
        for patch_size in patch_sizes:
            check_architecture(architecture, patch_size)
        _check_arguments(patch_sizes, n_students, training_mode, hard_fraction, shared_layers)
        check_score_window(score_window)
        create_describer(mode, output_stride, max_tile)
        self.hard_fraction = hard_fraction
        self.score_window = score_window
        self.grad_checkpointing = grad_checkpointing
        self.jitter = PhotometricJitter(light_jitter)
        self.defects = SyntheticDefects(synthetic_defects)
        self.patch_sizes = tuple(patch_sizes)
        self.architecture = architecture
        self.mode = mode
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
                self.ensembles[f"p{size}"] = StudentTeacherEnsemble(
                    size, n_students, descriptor_dim, architecture, shared_layers
                )

    @property
    def scales(self) -> list[StudentTeacherEnsemble]:
        """The ensembles, in the order of the patch sizes."""
        return [cast("StudentTeacherEnsemble", ensemble) for ensemble in self.ensembles.values()]

    @property
    def describer(self) -> Describer:
        """What is scored: every s-th pixel, or the image as one patch."""
        max_tile = self.max_tile
        if self.tiler is not None:
            max_tile = max(SMALLEST_TILE, self.tiler.tile_size_h, self.tiler.tile_size_w)
        return create_describer(self.mode, self.output_stride, max_tile)

    def forward(self, images: torch.Tensor) -> torch.Tensor | InferenceBatch:
        """Compute the loss in training, and predictions in evaluation.

        Args:
            images: Normalised images of shape ``(B, 3, H, W)``.

        Returns:
            In training, the loss of all students of all patch sizes (eq. 7), a scalar. In evaluation, the anomaly map
            of shape ``(B, 1, H, W)`` (eq. 12) and the score of the image, of shape ``(B,)``; in the mode ``"patch"``
            the score of eq. 12 alone.

        Raises:
            ValueError: If a pixel or a score is not finite; exported models score such images as anomalous.
        """
        if self.training:
            seed = _draw_seed()
            images = self.jitter(images, torch.Generator().manual_seed(seed))
            mode = "patch" if self.mode == "patch" else self.training_mode
            losses = [
                ensemble.training_loss(
                    images,
                    mode,
                    torch.Generator().manual_seed(seed + patch_size),
                    self.hard_fraction,
                    self.grad_checkpointing,
                    self.defects,
                )
                for patch_size, ensemble in zip(self.patch_sizes, self.scales, strict=True)
            ]
            return torch.stack(losses).sum()
        return self.predict(images)

    def predict(self, images: torch.Tensor) -> InferenceBatch:
        """Compute predictions, in training too.

        Args:
            images: Normalised images of shape ``(B, 3, H, W)``.

        Returns:
            See :meth:`forward`.

        Raises:
            ValueError: If a pixel or a score is not finite; exported models score such images as anomalous.
        """
        describer = self.describer
        # Not every inferencer turns gradients off, and kept activations would fill the memory.
        with nullcontext() if torch.compiler.is_exporting() else torch.no_grad():
            scores = combine_scales([ensemble(images, describer) for ensemble in self.scales])
        return prediction(scores, images, has_map=self.mode == "pixel", score_window=self.score_window)


def _draw_seed() -> int:
    """Draw a seed from which each patch size derives its own, so that none of them depends on the others' presence."""
    return int(torch.randint(2**62, ()))


def _check_arguments(
    patch_sizes: Sequence[int], n_students: int, training_mode: str, hard_fraction: float, shared_layers: int
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
    if shared_layers < 0:
        msg = f"shared_layers must be at least 0, got {shared_layers}."
        raise ValueError(msg)
