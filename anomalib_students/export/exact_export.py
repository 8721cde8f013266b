"""Exported models that return what the engine returns."""

import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.metrics import F1Score
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from anomalib_students.engine.quiet import only_warnings_of

from .resize import exportable_transform
from .whole_export import export_whole

if TYPE_CHECKING:
    import openvino

__all__ = ["ExactExport"]

logger = logging.getLogger(__name__)

ONNX_OPSET = 18
"""Operator set of exported models: the one in which torch exports."""
QUANTISED = (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)
"""Compressions whose convolutions compute in 8 bits."""
EQUALISATION_IMAGES = 8
"""Images on which the ranges of channels are measured."""
MOST_DIFFERENCE = 0.05
"""Difference of scores, of which good and anomalous images usually have 0.25 and more than 0.5, that is warned of."""
QUANTISED_BADLY = (
    "The quantised model is exported, but its scores differ from the model's by up to %.2f: test it before you use it, "
    "or export it with another compression_type, or none."
)
EXAMPLE_SIZE = (40, 56)
"""Height and width of the example that a model of any size is exported with."""
TALKATIVE = ("onnx_ir", "onnxscript", "nncf")
"""Loggers that report each step of a conversion."""
LARGEST_ONNX_FILE = 2**31
"""Bytes that an ONNX file must have fewer of: the limit of protocol buffers."""
ONNX_GRAPH = 2**24
"""Bytes allowed for the operations of an ONNX file beside the weights; ours take less than one megabyte."""


@contextmanager
def keeping_mode(model: nn.Module) -> Iterator[None]:
    """Restore afterwards which modules train and which evaluate: exports set all to evaluation."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def normalising_only_by_a_range(post_processor: object) -> Iterator[None]:
    """Turn normalisation off while a model without a measured range of scores is exported.

    In PyTorch, the post-processor then returns the scores unchanged. Exported, it would compute an unused normalisation
    by NaN, at which OpenVINO fails when it compiles a quantised model.
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
    """Mixin of anomalib models: export with antialiasing, in torch's operator set, and quantise only convolutions.

    It goes before ``AnomalibModule`` among the base classes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keep_antialiasing()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Have the restored pre-processor export its antialiasing."""
        super().on_load_checkpoint(checkpoint)
        self._keep_antialiasing()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model as anomalib does; in ``Engine.export``, with the arguments that its model was given.

        ``Engine.export`` exports a model that it loads by this method, and not the one that it was called with, whose
        arguments the command line sets.
        """
        for frame, _ in traceback.walk_stack(None):
            if frame.f_code is Engine.export.__code__:
                kwargs = {**_arguments(frame.f_locals["model"]), **kwargs}
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export to PyTorch as anomalib does, whole or not at all."""
        return export_whole(super().to_torch, *args, **kwargs)  # type: ignore[misc]

    def to_onnx(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to ONNX as anomalib does, in one file, and in the operator set that can express the padding.

        Without an ``input_size``, images may have any. From 2 GB on the weights are in a second file,
        ``model.onnx.data``. The model keeps its mode.
        """
        kwargs.setdefault("opset_version", ONNX_OPSET)
        kwargs.setdefault("external_data", _size(self) + ONNX_GRAPH >= LARGEST_ONNX_FILE)
        kwargs.setdefault("verbose", False)
        if input_size is None and not kwargs.keys() & {"dynamic_axes", "dynamic_shapes"}:
            # anomalib's own example has 2 x 2 pixels, and torch would take sides that are equal or small for fixed.
            input_size = EXAMPLE_SIZE
            kwargs["dynamic_shapes"] = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)
        ranged = normalising_only_by_a_range(getattr(self, "post_processor", None))
        with ranged, keeping_mode(self), only_warnings_of(*TALKATIVE):
            return export_whole(super().to_onnx, export_root, model_file_name, input_size, **kwargs)  # type: ignore[arg-type]

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Export to OpenVINO as anomalib does, with equalised channels if convolutions are quantised."""
        original: Callable[..., Path] = super().to_openvino  # type: ignore[misc]
        arguments = inspect.signature(original).bind(*args, **kwargs).arguments
        if arguments.get("compression_type") not in {None, CompressionType.FP16}:
            # Its import sets the level of its logger.
            import nncf  # noqa: F401
        with keeping_mode(self), only_warnings_of(*TALKATIVE), self._quantisable(**arguments):
            return export_whole(original, *args, **kwargs)

    def equalised(self, images: Iterable[torch.Tensor]) -> AbstractContextManager[None]:
        """Make the model fit for 8 bits, by what it computes for batches of images; models override this."""
        del images
        return nullcontext()

    def _quantisable(
        self,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        **_: object,
    ) -> AbstractContextManager[None]:
        """Equalise the model by images of a data module if it is quantised."""
        if datamodule is None or compression_type not in QUANTISED:
            return nullcontext()
        from .compression import calibration_images

        images = (batch.image.to(self.device) for batch in calibration_images(datamodule, EQUALISATION_IMAGES))
        return self.equalised(images)

    def _compress_ov_model(
        self,
        model: "openvino.Model",
        compression_type: CompressionType,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: object = None,
        max_drop: float = 0.01,
    ) -> "openvino.Model":
        """Quantise only convolutions, where anomalib quantises everything, and warn if that changes the scores."""
        # Imported here, as in anomalib, because it takes seconds.
        from .compression import largest_difference, quantise, quantise_controlled

        if compression_type == CompressionType.INT8_PTQ:
            model = quantise(model, datamodule)
        elif compression_type == CompressionType.INT8_ACQ:
            metric = metric or F1Score(fields=["pred_label", "gt_label"])
            model = quantise_controlled(model, datamodule, metric, max_drop)
        else:
            model = super()._compress_ov_model(model, compression_type, datamodule, metric, task, max_drop)  # type: ignore[misc]
        if datamodule is not None:
            difference = largest_difference(model, self._score, datamodule)
            if difference > MOST_DIFFERENCE:
                logger.warning(QUANTISED_BADLY, difference)
        return model

    @torch.no_grad()
    def _score(self, images: torch.Tensor) -> torch.Tensor:
        return self.eval()(images.to(self.device)).pred_score

    def _keep_antialiasing(self) -> None:
        """Have exported models resize images as the engine does."""
        pre_processor = getattr(self, "pre_processor", None)
        if isinstance(pre_processor, PreProcessor):
            pre_processor.export_transform = exportable_transform(pre_processor.transform)


def _size(model: nn.Module) -> int:
    """Bytes of a model's weights."""
    return sum(value.nbytes for value in model.state_dict().values() if isinstance(value, torch.Tensor))


def _arguments(model: LightningModule) -> dict[str, Any]:
    """Arguments of a model that are not the defaults, and its pre- and post-processor."""
    defaults = inspect.signature(type(model)).parameters
    named = {name: value for name, value in model.hparams.items() if value != defaults[name].default}
    return {**named, "pre_processor": model.pre_processor or False, "post_processor": model.post_processor or False}
