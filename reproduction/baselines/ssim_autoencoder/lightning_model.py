"""SSIM-Autoencoder for anomalib.

Bergmann et al., "Improving Unsupervised Defect Segmentation by Applying Structural Similarity to Autoencoders", VISAPP
2019: an autoencoder learns to reconstruct images of good parts, and a part is anomalous where its structure differs
from that of the reconstruction.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import SSIMAutoencoder
    >>> Engine().train(SSIMAutoencoder(), datamodule=MVTec(train_batch_size=16))  # doctest: +SKIP
"""

from collections.abc import MutableMapping, Sequence
from typing import Any, ClassVar, cast

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torchvision.transforms.v2 import Resize

from anomalib_students.engine.random_state import RandomState
from anomalib_students.engine.termination import Termination
from anomalib_students.engine.training_time import TrainingTime
from anomalib_students.model.detector import Detector

from .similarity import CONSTANTS
from .torch_model import SSIMAutoencoderModel

__all__ = ["SSIMAutoencoder"]

RANGE_TOLERANCE = 1e-3
"""How far pixels may exceed [0, 1], for the rounding of a pre-processor."""


class SSIMAutoencoder(Detector, AnomalibModule):
    """Lightning module of the SSIM-Autoencoder of Bergmann et al. (VISAPP 2019), as evaluated on MVTec AD.

    Args:
        patch_size: Side in pixels of the patches that are reconstructed: 256, the network that was extended for
            objects, or 128, the original one, for textures. Larger images are trained on in random patches.
        latent_dim: Dimension of the latent vector.
        patch_stride: Distance in pixels between the patches that images larger than ``patch_size`` are scored in.
        ssim_constants: Constants ``c1`` and ``c2`` of the similarity, by default ``0.01 ** 2`` and ``0.03 ** 2`` as in
            Wang et al. The paper prints 0.01 and 0.03, without the squares, and calls them typical.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        pre_processor: Pre-processor, or ``True`` for resizing to 256 x 256. It must leave pixels in ``[0, 1]``.
        post_processor: Post-processor, or ``True`` for anomalib's default.
        evaluator: Evaluator, or ``True`` for that of ``UninformedStudents``.
        visualizer: Visualizer, or ``True`` for anomalib's default.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = SSIMAutoencoder(patch_size=128)
        >>> model.paper_epochs
        200
    """

    checked_arguments: ClassVar[tuple[str, ...]] = ("patch_size", "latent_dim")
    paper_epochs: ClassVar[int] = 200

    def __init__(
        self,
        patch_size: int = 256,
        latent_dim: int = 100,
        patch_stride: int = 30,
        ssim_constants: tuple[float, float] = CONSTANTS,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        self.model: SSIMAutoencoderModel = SSIMAutoencoderModel(patch_size, latent_dim, patch_stride, ssim_constants)
        if lr <= 0 or weight_decay < 0:
            msg = f"lr must be positive and weight_decay not negative, got lr={lr} and weight_decay={weight_decay}."
            raise ValueError(msg)
        self.lr = lr
        self.weight_decay = weight_decay

    def configure_callbacks(self) -> Sequence[Callback]:
        """Make the training resumable, and estimate its time."""
        return [*super().configure_callbacks(), RandomState(), Termination(), TrainingTime()]

    def training_step(self, batch: Batch) -> STEP_OUTPUT:
        """Compute the mean of 1 - SSIM. Raises a ``ValueError`` for pixels out of ``[0, 1]``."""
        images = cast("torch.Tensor", batch.image)
        darkest, brightest = (value.item() for value in images.aminmax())
        if darkest < -RANGE_TOLERANCE or brightest > 1 + RANGE_TOLERANCE:
            msg = (
                f"SSIMAutoencoder compares pixels in [0, 1], but got some in [{darkest:.2f}, {brightest:.2f}]: take "
                "the normalisation out of the pre-processor."
            )
            raise ValueError(msg)
        loss = self.model(images)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, logger=True, batch_size=len(images))
        return {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the network."""
        return torch.optim.Adam(self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize images, by default to 256 x 256 pixels, and leave their range as it is."""
        return PreProcessor(transform=Resize(image_size or (256, 256), antialias=True))

    def complete_trainer_settings(self, settings: MutableMapping[str, Any]) -> None:
        """Train for the paper's epochs if the user leaves the length open."""
        unlimited = settings.get("max_epochs") is None and settings.get("max_time") is None
        if unlimited and settings.get("max_steps") in {None, -1}:
            settings["max_epochs"] = self.paper_epochs
