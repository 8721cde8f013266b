"""Exported models that give what the engine gives."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from torch import nn

from anomalib_students.engine.quiet import only_warnings_of

from .equalisation import equalised
from .resize import exportable_transform
from .whole_export import export_whole

if TYPE_CHECKING:
    import openvino

__all__ = ["ExactExport"]

ONNX_OPSET = 18
"""Operator set of exported models: the one in which torch exports."""
QUANTISED = (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)
"""Compressions whose convolutions compute in 8 bits."""
EQUALISATION_IMAGES = 8
"""Images by which the ranges of channels are measured."""
TALKATIVE = ("onnx_ir", "onnxscript", "nncf")
"""Loggers that report each step of a conversion."""
LARGEST_ONNX_FILE = 2**31
"""Bytes that an ONNX file must have fewer of: the limit of protocol buffers."""
ONNX_GRAPH = 2**24
"""Bytes allowed for the operations of an ONNX file beside the weights; ours take less than one megabyte."""


@contextmanager
def keeping_mode(model: nn.Module) -> Iterator[None]:
    """Restore afterwards which modules train and which evaluate: exports set all to evaluation.

    Args:
        model: Model that is exported.

    Yields:
        Nothing.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def normalising_only_by_a_range(post_processor: object) -> Iterator[None]:
    """Have a post-processor leave scores alone in exported models too, where no validation has measured their range.

    In PyTorch it does so by itself. Exported, it would hold a normalisation by NaN that is computed and not used, which
    OpenVINO fails at when it compiles a quantised model.

    Args:
        post_processor: Post-processor, if there is one.

    Yields:
        Nothing; its setting is restored afterwards.
    """
    if not isinstance(post_processor, PostProcessor):
        yield
        return
    has_range = not (post_processor.image_min.isnan() and post_processor.pixel_min.isnan())
    enabled = post_processor.enable_normalization
    post_processor.enable_normalization = enabled and has_range
    try:
        yield
    finally:
        post_processor.enable_normalization = enabled


class ExactExport(LightningModule):
    """Mixin of anomalib models: export with antialiasing, in torch's operator set, and quantise convolutions alone.

    It goes before ``AnomalibModule`` among the base classes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keep_antialiasing()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the pre- and post-processor.

        Args:
            checkpoint: Checkpoint that is loaded.
        """
        super().on_load_checkpoint(checkpoint)
        self._keep_antialiasing()

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export to PyTorch as every anomalib model, whole or not at all.

        Args:
            args: See :meth:`anomalib.models.components.ExportMixin.to_torch`.
            kwargs: Likewise.

        Returns:
            Path of the model.

        Raises:
            OSError: If it cannot be written.
        """
        return export_whole(super().to_torch, *args, **kwargs)  # type: ignore[misc]

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]
        """Export to ONNX as every anomalib model, in one file, and in the operator set that can express the padding.

        From 2 GB on the weights are in a second file, ``model.onnx.data``, and the model stays in the mode it is in.

        Args:
            args: See :meth:`anomalib.models.components.ExportMixin.to_onnx`.
            kwargs: Likewise.

        Returns:
            Path of the ONNX model.

        Raises:
            OSError: If it cannot be written.
        """
        kwargs.setdefault("opset_version", ONNX_OPSET)
        kwargs.setdefault("external_data", _size(self) + ONNX_GRAPH >= LARGEST_ONNX_FILE)
        kwargs.setdefault("verbose", False)
        ranged = normalising_only_by_a_range(getattr(self, "post_processor", None))
        with ranged, keeping_mode(self), only_warnings_of(*TALKATIVE):
            return export_whole(super().to_onnx, *args, **kwargs)  # type: ignore[arg-type]

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Export to OpenVINO as every anomalib model, with equalised channels where 8 bits are to hold their values.

        Args:
            args: See :meth:`anomalib.models.components.ExportMixin.to_openvino`.
            kwargs: Likewise.

        Returns:
            Path of the OpenVINO model.

        Raises:
            OSError: If it cannot be written.
        """
        original: Callable[..., Path] = super().to_openvino  # type: ignore[misc]
        arguments = signature(original).bind(*args, **kwargs).arguments
        if arguments.get("compression_type") not in {None, CompressionType.FP16}:
            # Its import sets the level of its logger.
            import nncf  # noqa: F401
        with keeping_mode(self), only_warnings_of(*TALKATIVE), self._equalised(**arguments):
            return export_whole(original, *args, **kwargs)

    def _equalised(
        self,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        **_: object,
    ) -> AbstractContextManager[None]:
        """Equalise channels if they are going to be quantised, by images of a data module."""
        if datamodule is None or compression_type not in QUANTISED:
            return nullcontext()
        from .compression import calibration_images

        images = (batch.image.to(self.device) for batch in calibration_images(datamodule, EQUALISATION_IMAGES))
        return equalised(self, images)

    @staticmethod
    def _post_training_quantization_ov(
        model: "openvino.Model", datamodule: AnomalibDataModule | None = None
    ) -> "openvino.Model":
        """Quantise an exported model as its accuracy needs it."""
        # Imported where it is needed, as in anomalib: it takes seconds.
        from .compression import quantise

        return quantise(model, datamodule)

    def _keep_antialiasing(self) -> None:
        """Have exported models resize images as the engine does."""
        pre_processor = getattr(self, "pre_processor", None)
        if isinstance(pre_processor, PreProcessor):
            pre_processor.export_transform = exportable_transform(pre_processor.transform)


def _size(model: nn.Module) -> int:
    """Count the bytes of a model's weights."""
    return sum(value.nbytes for value in model.state_dict().values() if isinstance(value, torch.Tensor))
