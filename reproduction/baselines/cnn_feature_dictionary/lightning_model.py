"""CNN Feature Dictionary for anomalib.

Napoletano, Piccoli and Schettini, "Anomaly Detection in Nanofibrous Materials by CNN-Based Self-Similarity", Sensors
2018: a pretrained network describes patches of good parts, a few typical ones are kept, and a part is anomalous where a
patch is like none of them.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import CNNFeatureDictionary
    >>> Engine().train(CNNFeatureDictionary(), datamodule=MVTec())  # doctest: +SKIP
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_students.teacher.sources import DistillationSource
from reproduction.baselines.one_pass import OnePassTraining

from .dictionary import FeatureDictionary
from .torch_model import CNNFeatureDictionaryModel

__all__ = ["CNNFeatureDictionary"]


class CNNFeatureDictionary(OnePassTraining, AnomalibModule):
    """Lightning module of the CNN Feature Dictionary of Napoletano et al. (2018), as Bergmann et al. evaluate it.

    It trains in one epoch, in which it collects features of patches of the training images.

    Args:
        patch_size: Side p of the patches in pixels: 65 in the comparison of Uninformed Students (Appendix C), 16 in the
            paper of MVTec AD.
        output_stride: Distance in pixels between patches at inference: 1, 2, 4 or 8. The scores of the pixels between
            their centres are interpolated.
        source: Name of the timm model that describes patches, or ``"bundled"`` for the teacher for p = 33 that comes
            with the package.
        source_checkpoint: Weights of the source, as safetensors or as a PyTorch state dict. By default timm's
            pretrained weights are downloaded.
        source_layer: Name of an intermediate layer whose globally pooled features are taken, such as ``"layer3"``. By
            default it is the network's last, the paper's ``avgpool``.
        input_size: Side in pixels to which patches are resized before the source sees them, except for ``"bundled"``,
            which always sees 33. The cost grows with its square.
        pretrained: Whether the source gets its weights now; ``False`` leaves it without, for a checkpoint to fill in.
        n_entries: Number of entries of the dictionary.
        n_nearest: Number of nearest entries whose distances are averaged to the score.
        n_samples: Patches that the dictionary is fitted to, drawn uniformly from those of all training images.
        patches_per_image: Patches that are drawn from each training image.
        pre_processor: Pre-processor, or ``True`` for resizing to 256 x 256 and ImageNet normalisation.
        post_processor: Post-processor, or ``True`` for anomalib's default.
        evaluator: Evaluator, or ``True`` for that of ``UninformedStudents``.
        visualizer: Visualizer, or ``True`` for anomalib's default.

    Raises:
        ValueError: If an argument is out of range, or there is no source, or no layer of it, of that name.
        FileNotFoundError: If ``source_checkpoint`` does not exist.
        RuntimeError: If the source's weights cannot be downloaded or read, or are those of another network.

    Example:
        >>> model = CNNFeatureDictionary(source="bundled", n_entries=20)
        >>> model.model.dictionary.n_centres
        20
    """

    checked_arguments: ClassVar[tuple[str, ...]] = ("patch_size", "source", "source_layer", "input_size")
    saved_arguments: ClassVar[Mapping[str, Any]] = {"source_checkpoint": None, "pretrained": False}

    def __init__(
        self,
        patch_size: int = 65,
        output_stride: int = 4,
        source: str = "resnet18",
        source_checkpoint: Path | str | None = None,
        source_layer: str | None = None,
        input_size: int = 64,
        pretrained: bool = True,
        n_entries: int = 10,
        n_nearest: int = 1,
        n_samples: int = 50_000,
        patches_per_image: int = 200,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        if min(input_size, n_samples) < 1:
            msg = f"input_size and n_samples must be at least 1, got input_size={input_size} and n_samples={n_samples}."
            raise ValueError(msg)
        checkpoint = None if source_checkpoint is None else Path(source_checkpoint)
        self.model: CNNFeatureDictionaryModel = CNNFeatureDictionaryModel(
            source=DistillationSource(source, checkpoint, source_layer, input_size, pretrained),
            dictionary=FeatureDictionary(n_entries, n_nearest),
            patch_size=patch_size,
            output_stride=output_stride,
            patches_per_image=patches_per_image,
        )
        self.n_samples = n_samples
