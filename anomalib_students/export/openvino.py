"""Exported models that return what the engine returns, written whole or not at all."""

import errno
import inspect
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_students.networks.resize import antialiased_resize
from anomalib_students.user_errors import only_warnings_of

__all__ = ["ExactExport"]

logger = logging.getLogger(__name__)

ONNX_OPSET = 18
"""Operator set of exported models: the one in which torch exports."""
EXAMPLE_SIZE = (40, 56)
"""Height and width of the image that a model of any size is traced with: neither small nor equal, which torch fixes."""
LARGEST_ONNX_FILE = 2**31
"""Bytes that an ONNX file must have fewer of: the limit of protocol buffers."""
ONNX_GRAPH = 2**24
"""Bytes allowed for the operations of an ONNX file beside the weights; ours take less than one megabyte."""
QUANTISED = (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)
"""Compressions whose convolutions compute in 8 bits."""
EQUALISATION_IMAGES = 8
"""Images on which the ranges of channels are measured."""
LARGEST_DIFFERENCE = 0.05
"""Difference of scores in ``[0, 1]`` that quantisation may make without a warning; 0.01 is usual."""
TALKATIVE = ("onnx_ir", "onnxscript", "nncf")
"""Loggers that report each step of a conversion."""
WRITE_FAILURES = ("iostream error", "PytorchStreamWriter", "write failed", "unexpected pos")
"""What OpenVINO and torch say of files that could not be written."""


class ExactExport(LightningModule):
    """Mixin of anomalib models: export with antialiasing, for images of any size, and quantise only convolutions.

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
        """Load a model as anomalib does; for ``Engine.export``, with the arguments of the model that it was given.

        ``Engine.export`` exports what this method returns, and ignores the model that the command line has made.
        """
        frame = inspect.currentframe()
        while frame and frame.f_code is not Engine.export.__code__:
            frame = frame.f_back
        if frame:
            given = frame.f_locals["model"]
            kwargs = {name: value for name, value in given.hparams.items() if given.is_named(name)} | kwargs
            kwargs |= {name: getattr(given, name) or False for name in ("pre_processor", "post_processor")}
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export to PyTorch as anomalib does, whole or not at all."""
        return _export_whole(super().to_torch, *args, **kwargs)  # type: ignore[misc]

    def to_onnx(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to ONNX as anomalib does, in one file, and in the operator set that can express the padding.

        Without ``input_size``, the model takes images of any size. From 2 GB on the weights are in a second file,
        ``model.onnx.data``. The model keeps its mode.

        Raises:
            ValueError: If the pre-processor can't be exported for images of any size.
        """
        kwargs.setdefault("opset_version", ONNX_OPSET)
        size = sum(value.nbytes for value in (*self.parameters(), *self.buffers()))
        kwargs.setdefault("external_data", size + ONNX_GRAPH >= LARGEST_ONNX_FILE)
        kwargs.setdefault("verbose", False)
        takes_any_size = input_size is None and not kwargs.keys() & {"dynamic_axes", "dynamic_shapes"}
        if takes_any_size:
            input_size = EXAMPLE_SIZE
            kwargs["dynamic_shapes"] = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)
        # Imported here, as all that only exports need.
        import onnx

        export: Callable[..., Path] = super().to_onnx  # type: ignore[assignment]

        def checked(export_root: Path) -> Path:
            try:
                path = export(export_root, model_file_name, input_size, **kwargs)
                shape = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape
                if takes_any_size and not all(side.dim_param for side in shape.dim[-2:]):
                    raise torch.onnx.OnnxExporterError
            except torch.onnx.OnnxExporterError as error:
                if not takes_any_size:
                    raise
                msg = (
                    "The pre-processor can't be exported for images of any size: give their input_size (height, width)."
                )
                raise ValueError(msg) from error
            return path

        with _as_exported(self), only_warnings_of(*TALKATIVE):
            return _export_whole(checked, export_root)

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Export to OpenVINO as anomalib does, with equalised channels if convolutions are quantised.

        Raises:
            ValueError: If there is no data module to quantise by.
        """
        export: Callable[..., Path] = super().to_openvino  # type: ignore[misc]
        arguments = inspect.signature(export).bind(*args, **kwargs).arguments
        datamodule, compression_type = arguments.get("datamodule"), arguments.get("compression_type")
        equal: Any = nullcontext()
        if compression_type in QUANTISED:
            if datamodule is None:
                msg = (
                    f"Datamodule must be provided for OpenVINO {compression_type.name} compression: "
                    "its images calibrate the model. Name the data, as in --data MVTec."
                )
                raise ValueError(msg)
            # Imported here, as in anomalib, because it takes seconds.
            from .int8 import calibration_images, equalised

            images = (batch.image.to(self.device) for batch in calibration_images(datamodule, EQUALISATION_IMAGES))
            equal = equalised(self, images)
        # In a thread of its own: where OpenVINO has computed, the next signal may find a stack that is gone.
        with _as_exported(self), only_warnings_of(*TALKATIVE), equal, ThreadPoolExecutor(1) as thread:
            return thread.submit(_export_whole, export, *args, **kwargs).result()

    def _compress_ov_model(
        self,
        model: Any,  # noqa: ANN401
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
    ) -> Any:  # noqa: ANN401
        """Quantise only convolutions, where anomalib quantises everything, and warn if that changes the scores."""
        from .int8 import largest_difference, quantise, quantise_controlled

        if datamodule and compression_type == CompressionType.INT8_PTQ:
            model = quantise(model, datamodule)
        elif datamodule and compression_type == CompressionType.INT8_ACQ:
            model = quantise_controlled(model, datamodule, metric, max_drop)
        else:
            model = super()._compress_ov_model(model, compression_type, datamodule, metric, task, max_drop)  # type: ignore[misc]
        if datamodule:
            difference = largest_difference(model, self, datamodule)
            if difference > LARGEST_DIFFERENCE:
                logger.warning(
                    "Quantised, the model scores images differently, by up to %.2f: test it before you use it, or "
                    "choose another compression_type, or none.",
                    difference,
                )
        return model

    def _keep_antialiasing(self) -> None:
        """Have exported models resize images as the engine does."""
        pre_processor = getattr(self, "pre_processor", None)
        if isinstance(pre_processor, PreProcessor):
            pre_processor.export_transform = _exportable(pre_processor.transform)


class _AntialiasedResize(Transform):
    """Transform that resizes batches of images with :func:`antialiased_resize`.

    Args:
        size: Height and width; or only the shorter side, which keeps the ratio of the sides.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Resize images of shape ``(B, C, H, W)``."""
        sides = inpt.shape[-2:]
        if len(self.size) == 2:
            return antialiased_resize(inpt, *self.size)
        # A comparison would limit the sizes that the exported model takes.
        shorter = torch.sym_min(*sides)
        return antialiased_resize(inpt, *(cast("int", self.size[0] * side // shorter) for side in sides))


def _exportable(transform: Transform | None) -> Transform | None:
    """Make a transform exportable as anomalib does, but keep its antialiasing, and the ratio of the sides.

    anomalib resizes with antialiasing in training and in its engine, but not in exported models, for which torch has no
    such operator. An exported model would see an image that is larger than its input differently.
    """
    if isinstance(transform, Compose):
        return Compose([_exportable(each) for each in transform.transforms])
    if (
        isinstance(transform, Resize)
        and transform.antialias
        and InterpolationMode(transform.interpolation) is InterpolationMode.BILINEAR
        and transform.size is not None
        and transform.max_size is None
    ):
        return _AntialiasedResize(transform.size)
    return get_exportable_transform(transform)


@contextmanager
def _as_exported(model: nn.Module) -> Iterator[None]:
    """Restore afterwards which modules train, and normalise no scores without a range, which would be all NaN.

    Exports set all modules to evaluation. OpenVINO fails when it compiles a quantised model that computes with NaN.
    """
    modes = {module: module.training for module in model.modules()}
    unranged = [
        module
        for module in modes
        if isinstance(module, PostProcessor)
        and module.enable_normalization
        and module.image_min.isnan()
        and module.pixel_min.isnan()
    ]
    try:
        for post_processor in unranged:
            post_processor.enable_normalization = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for post_processor in unranged:
            post_processor.enable_normalization = True


def _export_whole(export: Callable[..., Path], *args: Any, **kwargs: Any) -> Path:
    """Export a model to a folder beside its place, and move it there when it is complete.

    An older export is kept until then. A killed process leaves it, and a hidden folder ``.export-*`` beside it.

    ``export`` writes to the folder ``export_root`` among its arguments, and returns the path of the main file in it.
    An ``OSError`` is raised if a file cannot be written.
    """
    bound = inspect.signature(export).bind(*args, **kwargs)
    root = Path(bound.arguments["export_root"])
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".export-") as folder, _naming_failed_writes(root):
        temporary = bound.arguments["export_root"] = Path(folder)
        main = export(*bound.args, **bound.kwargs).relative_to(temporary)
        files = [path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()]
        for path in files:
            with (temporary / path).open("rb") as file:
                # A power cut must not leave an empty file.
                os.fsync(file.fileno())
            (root / path).parent.mkdir(parents=True, exist_ok=True)
        if len(files) > 1:
            # So that the old main file is never found with new weights.
            (root / main).unlink(missing_ok=True)
        for path in sorted(files, key=lambda path: path == main):
            (temporary / path).replace(root / path)
    return root / main


@contextmanager
def _naming_failed_writes(root: Path) -> Iterator[None]:
    """Raise an ``OSError`` with the reason if OpenVINO or torch fail to write a file."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in WRITE_FAILURES):
            raise
        number = errno.ENOSPC if shutil.disk_usage(root).free < 2**20 else errno.EIO
        reason = f"{os.strerror(number)}, so that the model is not exported; an older export is as it was"
        raise OSError(number, reason, str(root)) from error
