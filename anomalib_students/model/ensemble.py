"""The student-teacher ensemble of one patch size (Section 3.2)."""

from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from anomalib_students.networks.dense import Patches, dense_patches
from anomalib_students.networks.patch_network import Architecture, PatchNetwork

from .anomaly_map import normalised_score, predictive_uncertainty, regression_error
from .describers import Describer, split_batch, zoom
from .deviation_floors import descriptor_divisor, score_divisor
from .loss import regression_loss, squared_distances
from .phase import sample_phase
from .statistics import RunningStatistics
from .synthetic_defects import SyntheticDefects

__all__ = ["StudentTeacherEnsemble", "TrainingMode"]

TrainingMode = Literal["phase", "dense"]
"""Which pixels a training step sees in the mode ``"pixel"``."""

RIDGE = 0.1
"""Variance added to that of the normalised descriptors, so that the expected error follows none into its noise."""
TRAINING_PIXELS = {"phase": 4 * 256 * 256, "dense": 256 * 256, "patch": 4 * 256 * 256}
"""Most pixels of a batch whose activations are kept for the backward pass, by training mode."""


class StudentTeacherEnsemble(nn.Module):
    """A teacher, its M students, and the statistics that make their scores comparable, for one patch size.

    Args:
        patch_size: Side p of the receptive field: 17, 33 or 65.
        n_students: Number M of students, at least 1.
        descriptor_dim: Dimension d of the descriptors.
        architecture: Architecture of all networks.
        shared_layers: First layers that the students have in common with the teacher, at least 0; these are not
            trained.

    Attributes:
        teacher: Frozen patch network. Its weights are random until they are loaded.
        students: M patch networks with random weights.
        descriptor_mean: Mean of the teacher's descriptors over the training images, of shape ``(d, 1, 1)``.
        descriptor_std: Their standard deviation, of shape ``(d, 1, 1)``.
        error_weight: What the regression error is expected to grow by with each component of the normalised descriptor,
            of shape ``(d,)``; zero for the paper's scores.
        error_mean: Mean of what exceeds that over anomaly-free images that the students have not seen; a scalar.
        error_std: Its standard deviation; a scalar.
        uncertainty_mean: Mean of the predictive uncertainty over the same images; a scalar.
        uncertainty_std: Its standard deviation; a scalar.
    """

    descriptor_mean: torch.Tensor
    descriptor_std: torch.Tensor
    error_weight: torch.Tensor
    error_mean: torch.Tensor
    error_std: torch.Tensor
    uncertainty_mean: torch.Tensor
    uncertainty_std: torch.Tensor

    def __init__(
        self,
        patch_size: int,
        n_students: int,
        descriptor_dim: int,
        architecture: Architecture = "paper",
        shared_layers: int = 0,
    ) -> None:
        super().__init__()
        self.teacher = PatchNetwork(patch_size, descriptor_dim, architecture).requires_grad_(requires_grad=False)
        self.students = nn.ModuleList(PatchNetwork(patch_size, descriptor_dim, architecture) for _ in range(n_students))
        for student in self.networks if shared_layers else []:
            # The layers behind frozen ones start with the variance that these were trained to have.
            student.initialise()
        self.share_layers(shared_layers)
        self.register_buffer("descriptor_mean", torch.zeros(descriptor_dim, 1, 1))
        self.register_buffer("descriptor_std", torch.ones(descriptor_dim, 1, 1))
        self.register_buffer("error_weight", torch.zeros(descriptor_dim))
        for score in ("error", "uncertainty"):
            self.register_buffer(f"{score}_mean", torch.zeros(()))
            self.register_buffer(f"{score}_std", torch.ones(()))

    @property
    def networks(self) -> list[PatchNetwork]:
        """The students."""
        return [cast("PatchNetwork", student) for student in self.students]

    def share_layers(self, shared_layers: int) -> None:
        """Take the first layers from the teacher, and train only the others."""
        self.shared_layers = shared_layers
        for student in self.networks:
            for layer, convolution in enumerate(student.convolutions):
                convolution.requires_grad_(requires_grad=layer >= shared_layers)

    def set_teacher(self, teacher: PatchNetwork) -> None:
        """Set the frozen teacher, and copy its first layers to the students."""
        self.teacher = teacher
        for student in self.networks:
            for own, its in zip(student.convolutions[: self.shared_layers], teacher.convolutions, strict=False):
                own.load_state_dict(its.state_dict())

    def normalise_descriptors(self, statistics: RunningStatistics) -> None:
        """Set the statistics that the teacher's descriptors are normalised with (eq. 7).

        Args:
            statistics: Statistics of the teacher's descriptors of training images.

        Raises:
            ValueError: If they are not finite.
        """
        mean, std = statistics.mean, statistics.std
        self.descriptor_mean.copy_(mean.view(-1, 1, 1))
        self.descriptor_std.copy_(descriptor_divisor(mean, std).view(-1, 1, 1))

    def normalise_scores(self, statistics: RunningStatistics, expected_error: float = 0.0) -> None:
        """Set the statistics that scores are normalised with (eq. 11), and the error that is to be expected.

        Some places of good parts are harder than others. How hard is a linear function of the descriptor, by ridge
        regression. With a part of it subtracted, less is left of the errors of good parts.

        Args:
            statistics: Statistics of held-out images, with covariance, see :meth:`score_vectors`.
            expected_error: Part of the expected error that is subtracted, in ``[0, 1]``; 0 for eq. 11.

        Raises:
            ValueError: If they are not finite.
        """
        dim = self.teacher.descriptor_dim
        descriptor_mean, mean = statistics.mean[:dim], statistics.mean[dim:]
        if not mean.isfinite().all():
            msg = "The students' scores are not finite: the training diverged. Use a smaller lr."
            raise ValueError(msg)
        of_descriptors, with_error = statistics.covariance[:dim, :dim], statistics.covariance[:dim, dim]
        # Few patches say little about many components.
        ridge = RIDGE + dim / statistics.count
        weight = expected_error * torch.linalg.solve(of_descriptors + ridge * torch.eye(dim).double(), with_error)
        self.error_weight.copy_(weight)
        variances = statistics.std[dim:].square()
        variances[0] += weight @ of_descriptors @ weight - 2 * weight @ with_error
        std = score_divisor(mean, variances.clamp(min=0).sqrt(), dim)
        self.error_mean.copy_(mean[0] - weight @ descriptor_mean)
        self.error_std.copy_(std[0])
        self.uncertainty_mean.copy_(mean[1])
        self.uncertainty_std.copy_(std[1])

    def describe(self, patches: Patches, painted: Patches | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Describe patches with all networks; what these compute alike is computed once.

        Args:
            patches: Patches of B images.
            painted: What the students see instead.

        Returns:
            Descriptors of the students, of shape ``(M, B, d, h, w)``, and the normalised descriptors of the teacher, of
            shape ``(B, d, h, w)``.
        """
        with torch.no_grad():
            seen = patches = patches.through(self.teacher, self.shared_layers)
            descriptors = patches.describe(self.teacher).float()
            if painted is not None:
                seen = painted.through(self.teacher, self.shared_layers)
        target = (descriptors - self.descriptor_mean) / self.descriptor_std
        return torch.stack([seen.describe(student) for student in self.networks]), target

    def training_loss(
        self,
        images: torch.Tensor,
        mode: TrainingMode | Literal["patch"],
        generator: torch.Generator | None = None,
        hard_fraction: float = 1.0,
        grad_checkpointing: bool = True,
        defects: SyntheticDefects | None = None,
    ) -> torch.Tensor:
        """Compute the loss of all students (eq. 7).

        Args:
            images: Images of shape ``(B, 3, H, W)``.
            mode: ``"dense"`` for every pixel, ``"phase"`` for a random part of them, ``"patch"`` for the one descriptor
                of each image, zoomed to the side of a patch.
            generator: Source of the random numbers that choose the part, by default torch's own.
            hard_fraction: Fraction of the pixels of the batch, the hardest, that the loss is the mean of; 1 for all.
            grad_checkpointing: Whether a batch of more than :data:`TRAINING_PIXELS` is processed in chunks, whose
                activations are not kept, but computed once more in the backward pass.
            defects: What is painted on images for the students alone; None for nothing.

        Returns:
            Sum of the students' losses; a scalar.
        """
        if mode == "phase":
            images = sample_phase(self.teacher, images, generator)
        elif mode == "patch":
            images = zoom(images, self.teacher.patch_size)
        painted = images if defects is None else defects(images, generator)
        chunks = list(zip(*(split_batch(each, TRAINING_PIXELS[mode]) for each in (images, painted)), strict=True))
        if len(chunks) == 1 or not grad_checkpointing:
            distances = self._distances(images, painted, mode)
        else:
            distances = torch.cat(
                [checkpoint(self._distances, *chunk, mode, use_reentrant=False) for chunk in chunks], dim=1
            )
        return regression_loss(distances, hard_fraction, is_painted=(painted != images).flatten(1).any(dim=1))

    def score_vectors(self, patches: Patches) -> torch.Tensor:
        """Return what :meth:`normalise_scores` takes statistics of, of shape ``(n, d + 2)`` for n patches.

        These are the teacher's normalised descriptors, regression error and predictive uncertainty, side by side.
        """
        students, target = self.describe(patches)
        scores = torch.stack([regression_error(students, target), predictive_uncertainty(students)], dim=1)
        return torch.cat([target, scores.to(target)], dim=1).movedim(1, -1).flatten(0, -2)

    def score(self, students: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Add up the normalised error and, if there are several students, uncertainty (eq. 11).

        What is to be expected of the teacher's descriptors is subtracted from the error.

        Args:
            students: Descriptors of the students, of shape ``(M, B, d, h, w)``.
            target: Normalised descriptors of the teacher, of shape ``(B, d, h, w)``.

        Returns:
            Scores of shape ``(B, h, w)``.
        """
        expected = torch.einsum("d,bdhw->bhw", self.error_weight.to(target), target)
        error = regression_error(students, target) - expected
        score = normalised_score(error, self.error_mean, self.error_std)
        if len(self.students) > 1:
            uncertainty = predictive_uncertainty(students)
            score = score + normalised_score(uncertainty, self.uncertainty_mean, self.uncertainty_std)
        return score

    def forward(self, images: torch.Tensor, describer: Describer) -> torch.Tensor:
        """Compute the normalised score of each pixel, or of each image (eq. 11).

        Args:
            images: Images of shape ``(B, 3, H, W)``.
            describer: What is scored.

        Returns:
            Scores of shape ``(B, 1, H, W)``, or ``(B, 1, 1, 1)`` if each image is one patch.
        """
        return describer.score(self.teacher, images, lambda patches: self.score(*self.describe(patches)))

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        """Load the statistics; models that were saved before errors were expected have no weight."""
        state_dict.setdefault(f"{prefix}error_weight", torch.zeros_like(self.error_weight))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _distances(self, images: torch.Tensor, painted: torch.Tensor, mode: str) -> torch.Tensor:
        """Squared distances of what the students predict from painted images, of shape ``(M, B, h, w)``."""
        create = partial(dense_patches, self.teacher) if mode == "dense" else Patches
        seen = None if torch.equal(images, painted) else create(painted)
        return squared_distances(*self.describe(create(images), seen))
