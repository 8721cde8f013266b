"""A teacher and its students at one scale (Section 3.2): describe, loss, score."""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from anomalib_students.networks.dense import cut_tiles, fill_phases, join_phases
from anomalib_students.networks.lean import halve, make_network
from anomalib_students.networks.patch_network import Architecture, PatchNetwork
from anomalib_students.networks.statistics import RunningStatistics

from .anomaly_map import (
    focus,
    largest_around,
    normalised_score,
    predictive_uncertainty,
    regression_error,
    transform,
    upsample,
)
from .loss import regression_loss, squared_distances
from .normalisation import descriptor_divisor, error_weighting_matrix, score_divisor, whitening_matrix

TRAINING_PIXELS = 256 * 256
"""Most pixels of a batch whose activations are kept for the backward pass where every pixel is described, and four
times as many where every fourth is, or fewer are."""
PLACES = 40  # Side of the grid of places of an image whose mean errors are kept.
SOFTENING = 20  # Differences of the fine deviation that halve the error, in units of the mean one of good images.
LEAST_EXCESS = 0.05  # Least that this is taken to be, where good images hardly differ.
UNFOCUSED = 1e9  # Softening that leaves the error as it is.


class StudentTeacher(nn.Module):
    """A teacher, its M students, and the statistics that make their scores comparable, for one patch size.

    Args:
        patch_size: Side p of the receptive field: 17, 33, 65, 83 or 167.
        n_students: Number M of students, at least 1.
        descriptor_dim: Dimension d of the descriptors.
        architecture: Architecture of all networks.
        shared_layers: Layer, at least 0, that the students begin at: they continue from what the teacher's layers
            before it return.
        whitens: Whether the normalised descriptors are whitened, too, which eq. 7 does not do, and errors weighted and
            focused.
        local_mean: How far the mean error of each place, in ``[0, 1]``, replaces that of all in eq. 11.

    Attributes:
        teacher: Frozen patch network. Its weights are random until they are loaded.
        students: M patch networks with random weights.
        descriptor_mean: Mean of the teacher's descriptors over the training images, of shape ``(d, 1, 1)``.
        descriptor_std: Their standard deviation, of shape ``(d, 1, 1)``.
        whitening: Matrix that whitens the normalised descriptors, of shape ``(d, d)``; empty if none does.
        error_weighting: Matrix that weighs the differences of students and teacher, of shape ``(d, d)``, or empty.
        fine_mean: Mean of the teacher's fine features over the training images, of shape ``(F, 1, 1)``, or empty.
        fine_whitening: Matrix that whitens them, of shape ``(F, F)``, or empty.
        softening: How little fine features focus the error, see :func:`~.anomaly_map.focus`; a scalar.
        error_pattern: Mean error of each place of the image relative to that of all, of shape ``(40, 40)``, or empty.
        error_mean: Mean of the regression error over anomaly-free images that the students have not seen; a scalar.
        error_std: Its standard deviation; a scalar.
        uncertainty_mean: Mean of the predictive uncertainty over the same images; a scalar.
        uncertainty_std: Its standard deviation; a scalar.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> scale = StudentTeacher(patch_size=83, n_students=2, descriptor_dim=208, architecture="lean")
        >>> scale(torch.rand(1, 3, 40, 50)).shape
        torch.Size([1, 1, 40, 50])
    """

    descriptor_mean: torch.Tensor
    descriptor_std: torch.Tensor
    whitening: torch.Tensor
    error_weighting: torch.Tensor
    error_pattern: torch.Tensor
    fine_mean: torch.Tensor
    fine_whitening: torch.Tensor
    softening: torch.Tensor
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
        whitens: bool = False,
        local_mean: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.local_mean = local_mean
        self.shared_layers = shared_layers
        network = patch_size, descriptor_dim, architecture
        self.teacher = make_network(*network).requires_grad_(requires_grad=False)
        self.students = nn.ModuleList(make_network(*network, is_student=True) for _ in range(n_students))
        if not 0 <= shared_layers < self.teacher.n_layers:
            raise ValueError(f"shared_layers must lie in [0, {self.teacher.n_layers}), got {shared_layers}.")
        for student in cast("list[PatchNetwork]", list(self.students)) if shared_layers else []:
            # The layers behind trained ones start with the variance that these were trained to have.
            student.initialise()
            student.continue_from(shared_layers)
        self.register_buffer("descriptor_mean", torch.zeros(descriptor_dim, 1, 1))
        self.register_buffer("descriptor_std", torch.ones(descriptor_dim, 1, 1))
        dim = descriptor_dim if whitens else 0
        self.register_buffer("whitening", torch.eye(dim))
        self.register_buffer("error_weighting", torch.eye(dim))
        n_fine = self.teacher.fine_channels if whitens else 0
        self.register_buffer("fine_mean", torch.zeros(n_fine, 1, 1))
        self.register_buffer("fine_whitening", torch.eye(n_fine))
        self.register_buffer("softening", torch.full((), UNFOCUSED))
        side = PLACES if local_mean else 0
        self.register_buffer("error_pattern", torch.ones(side, side))
        self.register_load_state_dict_pre_hook(_complete)
        for score in ("error", "uncertainty"):
            self.register_buffer(f"{score}_mean", torch.zeros(()))
            self.register_buffer(f"{score}_std", torch.ones(()))

    def forward(self, images: torch.Tensor, output_stride: int = 4, max_tile: int | None = None) -> torch.Tensor:
        """Compute the anomaly map of one scale (eq. 11).

        Args:
            images: Normalised images of shape ``(B, 3, H, W)``.
            output_stride: Distance s in pixels between described pixels; the scores of the others are interpolated.
            max_tile: Largest side in pixels of what is described at once; by default, the whole images are.

        Returns:
            Scores of shape ``(B, 1, H, W)``.
        """
        view = self.view(images)
        scores_on_grid = self.score(*self.measure(view, output_stride, max_tile)).unsqueeze(1)
        if len(self.error_pattern):
            deviation = self.local_mean * (self.error_pattern - 1) * self.error_mean / self.error_std
            scores_on_grid = scores_on_grid - functional.interpolate(
                deviation[None, None], size=scores_on_grid.shape[-2:], mode="bilinear"
            )
        scores_of_view = upsample(scores_on_grid, output_stride, view.shape[-2:])
        return scores_of_view if view is images else upsample(scores_of_view, 2, images.shape[-2:])

    @property
    def weight(self) -> float:
        """Weight of the scale among others: less where the image is seen at half its side, whose map is coarser."""
        return 1.0 if self.patch_size == self.teacher.patch_size else 0.5

    def view(self, images: torch.Tensor) -> torch.Tensor:
        """Return images ``(B, 3, H, W)`` as the networks see them: p = 167 sees them at half their sides."""
        return images if self.patch_size == self.teacher.patch_size else halve(images)

    def describe(
        self, tiles: torch.Tensor, output_stride: int, painted: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Describe every s-th pixel with all networks; shared layers run once.

        Args:
            tiles: Tiles with the border that their patches reach over, of shape ``(B, 3, h + p - 1, w + p - 1)``.
            output_stride: Distance s in pixels between described pixels.
            painted: What the students see instead.

        Returns:
            Descriptors of the students, of shape ``(M, B, d, h / s, w / s)``; the normalised descriptors of the
            teacher, of shape ``(B, d, h / s, w / s)``; and the fine deviation, of shape ``(B, h / s, w / s)``, the mean
            square of the whitened fine features: about 1 on good images, 0 if the networks have none.
        """
        with torch.no_grad():
            shared = self._shared_layers(tiles, output_stride)
            described = self._continued(shared, tiles, output_stride).float()
            dim = len(self.descriptor_mean)
            target = transform(self.whitening, (described[:, :dim] - self.descriptor_mean) / self.descriptor_std)
            deviation = torch.zeros_like(target[:, 0])
            if len(self.fine_mean):
                deviation = transform(self.fine_whitening, described[:, dim:] - self.fine_mean).square().mean(dim=1)
            if painted is not None:
                shared = self._shared_layers(painted, output_stride)
        students = torch.stack([student(shared, output_stride) for student in self.students])
        return join_phases(self.teacher, students, output_stride, tiles.shape[-2:]), target, deviation

    def measure(
        self, view: torch.Tensor, output_stride: int, max_tile: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute regression error and predictive uncertainty of views ``(B, 3, H, W)``: two of ``(B, h, w)``."""

        def of_tile(students: torch.Tensor, target: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
            uncertainty = predictive_uncertainty(students) if len(self.students) > 1 else torch.zeros_like(deviation)
            return torch.stack([regression_error(students, target, self.error_weighting), uncertainty, deviation], 1)

        error, uncertainty, deviation = self._of_tiles(of_tile, view, output_stride, max_tile).unbind(dim=1)
        if len(self.fine_mean):
            error = focus(error, deviation, self.softening, self._window(output_stride))
        return error, uncertainty

    def score(self, error: torch.Tensor, uncertainty: torch.Tensor) -> torch.Tensor:
        """Add up the normalised error and, if there are several students, uncertainty (eq. 11), ``(B, h, w)``."""
        score = normalised_score(error, self.error_mean, self.error_std)
        if len(self.students) > 1:
            score = score + normalised_score(uncertainty, self.uncertainty_mean, self.uncertainty_std)
        return score

    def loss(
        self, tiles: torch.Tensor, output_stride: int, painted: torch.Tensor | None = None, hard_fraction: float = 1.0
    ) -> torch.Tensor:
        """Compute the loss of all students (eq. 7).

        A batch of more than :data:`TRAINING_PIXELS` is processed in chunks, whose activations are not kept, but
        computed once more in the backward pass.

        Args:
            tiles: Tiles with border, see :meth:`describe`.
            output_stride: Distance s in pixels between described pixels.
            painted: What the students see instead.
            hard_fraction: Fraction of the pixels of the batch, the hardest, that the loss is the mean of; 1 for all.

        Returns:
            Sum of the students' losses; a scalar.
        """

        def distances(tiles: torch.Tensor, painted: torch.Tensor | None = None) -> torch.Tensor:
            return squared_distances(*self.describe(tiles, output_stride, painted)[:2])

        seen = [tiles] if painted is None else [tiles, painted]
        chunks = list(zip(*(split_batch(each, TRAINING_PIXELS * min(output_stride, 4)) for each in seen), strict=True))
        if len(chunks) == 1:
            return regression_loss(distances(*seen), hard_fraction)
        parts = [checkpoint(distances, *chunk, use_reentrant=False) for chunk in chunks]
        return regression_loss(torch.cat(parts, dim=1), hard_fraction)

    def descriptor_vectors(self, tiles: torch.Tensor, output_stride: int) -> torch.Tensor:
        """Return what :meth:`normalise_descriptors` takes statistics of, ``(n, d + F)`` for n pixels of tiles."""
        descriptors = self._continued(self._shared_layers(tiles, output_stride), tiles, output_stride)
        return descriptors[:, : len(self.descriptor_mean) + len(self.fine_mean)].movedim(1, -1).flatten(0, -2)

    def update_errors(self, images: torch.Tensor, stride: int, max_tile: int, *statistics: RunningStatistics) -> None:
        """Add images ``(B, 3, H, W)`` that the students learn from to what :meth:`weigh_errors` takes."""
        differences, places, excesses = statistics

        def of_tile(students: torch.Tensor, target: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
            difference = students.float().mean(dim=0) - target.float()
            differences.update(difference.movedim(1, -1).flatten(0, -2))
            return torch.stack([difference.square().sum(dim=1), deviation])

        error, deviation = self._of_tiles(of_tile, self.view(images), stride, max_tile)
        places.update(functional.adaptive_avg_pool2d(error, PLACES).flatten(1))
        excesses.update((largest_around(deviation, self._window(stride)) - deviation).view(-1, 1))

    def normalise_descriptors(self, statistics: RunningStatistics) -> None:
        """Set the statistics that the teacher's descriptors are normalised with (eq. 7).

        Args:
            statistics: Statistics of training images, with covariance if they are whitened, see
                :meth:`descriptor_vectors`.

        Raises:
            ValueError: If they are not finite.
        """
        dim, mean, std = len(self.descriptor_mean), statistics.mean, statistics.std
        self.descriptor_mean.copy_(mean[:dim].view(-1, 1, 1))
        divisor = descriptor_divisor(mean[:dim], std[:dim])
        self.descriptor_std.copy_(divisor.view(-1, 1, 1))
        if len(self.whitening):
            self.whitening.copy_(whitening_matrix(statistics.covariance[:dim, :dim], divisor))
        if len(self.fine_mean):
            divisor = descriptor_divisor(mean[dim:], std[dim:])
            self.fine_mean.copy_(mean[dim:].view(-1, 1, 1))
            self.fine_whitening.copy_(whitening_matrix(statistics.covariance[dim:, dim:], divisor) / divisor)

    def weigh_errors(
        self, differences: RunningStatistics, places: RunningStatistics, excesses: RunningStatistics
    ) -> None:
        """Set how errors are weighted, where they are expected to be large, and how far they are focused.

        Args:
            differences: Statistics with covariance of the differences of students and teacher, d components.
            places: Statistics of their squared norm at each of 40 x 40 places of an image.
            excesses: Statistics of how far the fine deviation is below the largest one around.

        Raises:
            ValueError: If the statistics are not finite.
        """
        if len(self.error_weighting):
            self.error_weighting.copy_(error_weighting_matrix(differences.covariance))
        if len(self.error_pattern):
            pattern = places.mean / places.mean.mean().clamp(min=torch.finfo(places.mean.dtype).tiny)
            self.error_pattern.copy_(pattern.view(PLACES, PLACES))
        if len(self.fine_mean):
            self.softening.copy_(SOFTENING * excesses.mean[0].clamp(min=LEAST_EXCESS))

    def normalise_scores(self, statistics: RunningStatistics) -> None:
        """Set the statistics that scores are normalised with (eq. 11).

        Args:
            statistics: Statistics of error and uncertainty of the pixels of held-out images, see :meth:`measure`.

        Raises:
            ValueError: If they are not finite.
        """
        mean, std = statistics.mean, score_divisor(statistics.mean, statistics.std, self.descriptor_mean.numel())
        for index, score in enumerate(("error", "uncertainty")):
            getattr(self, f"{score}_mean").copy_(mean[index])
            getattr(self, f"{score}_std").copy_(std[index])

    def _of_tiles(self, compute: Callable, view: torch.Tensor, stride: int, max_tile: int | None) -> torch.Tensor:
        """Compute something of the descriptors of each tile, and join it in its last two dimensions."""
        rows = [
            torch.cat([compute(*self.describe(tile, stride)) for tile in row], dim=-1)
            for row in cut_tiles(view, self.teacher.patch_size, stride, max_tile)
        ]
        return torch.cat(rows, dim=-2)

    def _window(self, output_stride: int) -> int:
        """Side of a window that covers the pixels whose patches reach the one in its middle."""
        return 2 * (self.teacher.patch_size // 2 // output_stride) + 1

    def _shared_layers(self, tiles: torch.Tensor, output_stride: int) -> torch.Tensor:
        filled = fill_phases(self.teacher, tiles, output_stride)
        return self.teacher(filled, output_stride, stop=self.shared_layers)

    def _continued(self, shared: torch.Tensor, tiles: torch.Tensor, output_stride: int) -> torch.Tensor:
        """Descriptors and fine features of the teacher, ``(B, d + F, h / s, w / s)``, from its shared layers."""
        phases = self.teacher.with_fine_features(shared, output_stride, self.shared_layers)
        return join_phases(self.teacher, phases, output_stride, tiles.shape[-2:])


def _complete(scale: StudentTeacher, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Score as a checkpoint did that was written before errors had weights, a pattern and a focus."""
    for name in ("error_weighting", "error_pattern", "fine_mean", "fine_whitening", "softening"):
        state.setdefault(f"{prefix}{name}", getattr(scale, name))


def split_batch(images: torch.Tensor, pixels: int) -> tuple[torch.Tensor, ...]:
    """Split a batch into chunks of at most ``pixels`` pixels together, but at least one image."""
    return images.split(max(1, pixels // images[0, 0].numel()))
