"""Student-teacher ensembles for one or several patch sizes (Sections 3.2 and 3.3)."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import nn
from torchvision.tv_tensors import TVTensor

from anomalib_students.networks.dense import SMALLEST_TILE, check_dense, cut_tiles

from .anomaly_map import combine_scales, prediction
from .augment import jitter_light, training_tiles
from .loss import painted_hard_fraction
from .settings import PRESETS, Settings
from .student_teacher import StudentTeacher, split_batch


class UninformedStudentsModel(nn.Module):
    """Teachers and students at one or several scales.

    From the same seed, each scale gets the same weights and sees the same samples of the images as in a model of its
    own, so that models of single scales can be merged.

    Args:
        settings: Settings, by default those of the default preset.
        changes: Settings that differ from these.

    Attributes:
        tiler: Set by anomalib's ``TilerConfigurationCallback``. The side of its tiles then replaces ``max_tile``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = UninformedStudentsModel(patch_sizes=(83,), n_students=2).eval()
        >>> predictions = model(torch.rand(1, 3, 64, 64))
        >>> predictions.anomaly_map.shape, predictions.pred_score.shape
        (torch.Size([1, 1, 64, 64]), torch.Size([1]))
    """

    def __init__(self, settings: Settings | None = None, **changes: Any) -> None:
        super().__init__()
        settings = replace(settings or PRESETS["default"], **changes)
        check_dense(settings.output_stride, settings.max_tile)
        self.settings = settings
        self.patch_sizes = settings.patch_sizes
        self.output_stride = settings.output_stride
        self.tiler: Tiler | None = None
        # Keyed by the patch size, which identifies the scales of a checkpoint.
        self.ensembles = nn.ModuleDict()
        self.register_state_dict_post_hook(_contiguous)
        seed = _draw_seed()
        for size in settings.patch_sizes:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + size)
                shape = settings.n_students, settings.dim, settings.architecture, settings.shared_layers
                scores = settings.whitening, settings.local_mean
                self.ensembles[f"p{size}"] = StudentTeacher(size, *shape, *scores)

    @property
    def scales(self) -> list[StudentTeacher]:
        """Teacher and students of each scale, in the order of the patch sizes."""
        return [cast("StudentTeacher", scale) for scale in self.ensembles.values()]

    @property
    def tile_side(self) -> int:
        """Largest side in pixels of what is described at once."""
        if self.tiler is None:
            return self.settings.max_tile
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
        if isinstance(images, TVTensor):  # Torch can't compile operations on torchvision's images.
            images = images.as_subclass(torch.Tensor)
        return self.loss(images) if self.training else self.predict(images)

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a training step; see :meth:`forward`."""
        settings, seed = self.settings, _draw_seed()
        images = self.jitter(images, seed)
        losses = []
        for scale in self.scales:
            generator = torch.Generator().manual_seed(seed + scale.patch_size)
            tiles, painted, n_painted = training_tiles(
                scale.teacher, scale.view(images), settings.training_mode, settings.synthetic_defects, generator
            )
            stride = scale.teacher.stride if settings.training_mode == "phase" else 1
            losses.append(scale.loss(tiles, stride, painted, painted_hard_fraction(settings.hard_fraction, n_painted)))
        return torch.stack(losses).sum()

    def predict(self, images: torch.Tensor) -> InferenceBatch:
        """Compute predictions, in training too; see :meth:`forward`."""
        # Not every inferencer turns gradients off, and kept activations would fill the memory.
        is_exporting = torch.compiler.is_exporting()
        with nullcontext() if is_exporting else torch.no_grad():
            chunks = [images] if is_exporting else split_batch(images, self.tile_side**2)
            maps = [
                combine_scales(
                    [scale(chunk, self.output_stride, self.tile_side) for scale in self.scales],
                    [scale.weight for scale in self.scales],
                )
                for chunk in chunks
            ]
            return prediction(torch.cat(maps), images, self.settings.score_fraction)

    def jitter(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        """Show images of shape ``(B, 3, H, W)`` in the random light of a training."""
        return jitter_light(images, self.settings.light_jitter, torch.Generator().manual_seed(seed))

    def tiles(self, scale: StudentTeacher, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut images into the tiles that a scale describes one by one."""
        for row in cut_tiles(scale.view(images), scale.teacher.patch_size, self.output_stride, self.tile_side):
            yield from row


@torch.compiler.disable
def _draw_seed() -> int:
    """Draw a seed from which each patch size derives its own, so that none of them depends on the others' presence."""
    return int(torch.randint(2**62, ()))


def _contiguous(_: nn.Module, state: dict[str, torch.Tensor], prefix: str, __: object) -> None:
    """Store weights in torch's default layout, the only one that safetensors takes."""
    for name, value in state.items():
        # With ``keep_vars``, the parameters themselves are wanted.
        if name.startswith(prefix) and not isinstance(value, nn.Parameter):
            state[name] = value.contiguous()
