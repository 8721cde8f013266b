"""The methods that the paper fits to the teacher's descriptors (Tables 1 and 2), for anomalib.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import DescriptorBaseline
    >>> Engine().train(DescriptorBaseline(method="k_means"), datamodule=MVTec())  # doctest: +SKIP
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_students.model.describers import Mode
from anomalib_students.model.detector import choose_components
from anomalib_students.model.lightning_model import BEFORE_NAMED, PAPER
from anomalib_students.networks.patch_network import Architecture
from anomalib_students.networks.weights import BUNDLED, load_teacher, teacher_path

from .distribution import MOST_SAMPLES
from .methods import Method
from .one_pass import OnePassTraining
from .torch_model import DescriptorBaselineModel

__all__ = ["DescriptorBaseline"]


class DescriptorBaseline(OnePassTraining, AnomalibModule):
    """Lightning module of the methods that Bergmann et al. (CVPR 2020) fit to the teacher's descriptors.

    It trains in one epoch, in which it collects descriptors of the training images.

    Args:
        method: ``"nearest_neighbour"``, ``"k_means"``, ``"one_class_svm"``, ``"autoencoder"`` or
            ``"variational_autoencoder"``.
        patch_size: Side p of the teacher's receptive field in pixels: 17, 33 or 65.
        output_stride: Distance in pixels between descriptors, in training and at inference: 1, 2, 4 or 8. The paper
            describes every pixel; the scores of the others are interpolated.
        teacher: ``"bundled"`` for the teachers that come with the package, the path of a teacher file, or a mapping
            from patch size to either. ``None`` leaves the teacher without weights, for a checkpoint to fill in.
        descriptor_dim: Dimension d of the descriptors, as the teacher was trained with.
        architecture: Architecture of the teacher.
        n_samples: Descriptors that the method is fitted to, drawn uniformly from those of all training images. ``None``
            for 50,000, as the paper, and for the autoencoders, and in the mode ``"patch"`` for all methods, which it
            fits to all descriptors, at most a million.
        max_tile: Largest side in pixels of the tiles that images are described in, which bounds the memory.
        standardise: Whether each dimension of the descriptors is standardised first, as it is for the students (eq. 7).
            The paper does not mention it for these methods.
        settings: Settings of the method that differ from the paper's, such as ``{"n_centres": 20}``: the arguments of
            its class in ``reproduction.baselines``. The paper's own differ between the modes.
        mode: ``"pixel"`` scores every pixel, for defects that are a part of the image. ``"patch"`` zooms the image to
            the patch size and scores it as that one patch, for images that are anomalous as a whole (one-class
            classification, Section 4.1): there is one descriptor, one score and no anomaly map, and ``output_stride``
            means nothing.
        pre_processor: Pre-processor, or ``True`` for resizing to 256 x 256 and ImageNet normalisation; in the mode
            ``"patch"``, for resizing to the patch size.
        post_processor: Post-processor, or ``True`` for anomalib's default.
        evaluator: Evaluator, or ``True`` for that of ``UninformedStudents``.
        visualizer: Visualizer, or ``True`` for anomalib's default; in the mode ``"patch"``, which has no map to show,
            for none.

    Raises:
        ValueError: If an argument is out of range, or the teacher does not fit ``patch_size``, ``descriptor_dim``
            and ``architecture``.
        FileNotFoundError: If the teacher file does not exist.

    Example:
        >>> model = DescriptorBaseline(method="nearest_neighbour", settings={"dictionary_size": 1000})
        >>> model.n_samples
        50000
    """

    before_named: ClassVar[Mapping[str, Any]] = {name: BEFORE_NAMED[name] for name in ("architecture", "mode")}
    checked_arguments: ClassVar[tuple[str, ...]] = ("method", "patch_size", "descriptor_dim", "architecture", "mode")
    saved_arguments: ClassVar[Mapping[str, Any]] = {"teacher": None}

    def __init__(
        self,
        method: Method = "nearest_neighbour",
        patch_size: int = 33,
        output_stride: int = 4,
        teacher: str | Mapping[int, str] | None = BUNDLED,
        descriptor_dim: int = 128,
        architecture: Architecture = "paper",
        n_samples: int | None = None,
        max_tile: int = 512,
        standardise: bool = True,
        settings: dict[str, Any] | None = None,
        mode: Mode = "pixel",
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            post_processor=post_processor,
            **choose_components(mode, (patch_size,), PAPER["image_size"], pre_processor, evaluator, visualizer),
        )
        self.model: DescriptorBaselineModel = DescriptorBaselineModel(
            method=method,
            patch_size=patch_size,
            output_stride=output_stride,
            descriptor_dim=descriptor_dim,
            architecture=architecture,
            max_tile=max_tile,
            standardise=standardise,
            settings=settings,
            mode=mode,
        )
        if n_samples is not None and n_samples < 1:
            msg = f"n_samples must be at least 1, got {n_samples}."
            raise ValueError(msg)
        if teacher is not None:
            path = teacher_path(teacher, patch_size, architecture)
            self.model.teacher = load_teacher(path, patch_size, descriptor_dim, architecture)
        paper_samples = MOST_SAMPLES if mode == "patch" else self.model.distribution.paper_samples
        self.n_samples = n_samples or paper_samples
