"""Exported models that return what the engine returns, written whole or not at all."""

import errno
import inspect
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_students.networks.resize import antialiased_resize
from anomalib_students.user_errors import only_warnings_of

logger = logging.getLogger(__name__)

ONNX_OPSET = 18  # Operator set of exported models: the one in which torch exports.
EXAMPLE_SIZE = (1032, 1048)
"""Height and width that models of any size are traced with: not equal, or torch fixes them; larger than most crops."""
QUANTISED = (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)  # Compressions whose convolutions compute in 8 bits.
LARGEST_DIFFERENCE = 0.05
"""Difference of scores in ``[0, 1]`` that quantisation may make without a warning; 0.01 is usual."""
TALKATIVE = ("onnx_ir", "onnxscript", "nncf")  # Loggers that report each step of a conversion.
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

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export to PyTorch, whole or not at all."""
        return _export_whole(super().to_torch, *args, **kwargs)  # type: ignore[misc]

    def to_onnx(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to ONNX, by default in one file; without ``input_size``, for images of any size.

        Raises:
            ValueError: If the pre-processor can't be exported for images of any size.
        """
        # Imported here, as all that only exports need.
        import onnx

        kwargs = {"opset_version": ONNX_OPSET, "external_data": False, "verbose": False, **kwargs}
        takes_any_size = input_size is None and not kwargs.keys() & {"dynamic_axes", "dynamic_shapes"}
        if takes_any_size:
            input_size = EXAMPLE_SIZE
            kwargs["dynamic_shapes"] = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)
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
                msg = "The pre-processor can't be exported for images of any size: give an input_size (height, width)."
                raise ValueError(msg) from error
            return path

        with _as_exported(self), only_warnings_of(*TALKATIVE):
            return _export_whole(checked, export_root)

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Export to OpenVINO, whole or not at all.

        Raises:
            ValueError: If there is no data module to quantise by.
        """
        export: Callable[..., Path] = super().to_openvino  # type: ignore[misc]
        arguments = inspect.signature(export).bind(*args, **kwargs).arguments
        datamodule, compression_type = arguments.get("datamodule"), arguments.get("compression_type")

        @wraps(export)
        def described(*args: Any, **kwargs: Any) -> Path:
            from anomalib_students.line.model import save_model

            path = export(*args, **kwargs)
            if good := getattr(getattr(self, "post_processor", None), "good_statistics", None):
                save_model(path, good)
            return path

        if compression_type in QUANTISED:
            if datamodule is None:
                what = f"OpenVINO {compression_type.name} compression"
                raise ValueError(f"Datamodule must be provided for {what}, which it calibrates: as in --data MVTec.")
            # Imported here, because it takes seconds, and before its logger is made quiet.
            import nncf  # noqa: F401
        # In a thread of its own: where OpenVINO has computed, the next signal may find a stack that is gone.
        with _as_exported(self), only_warnings_of(*TALKATIVE), ThreadPoolExecutor(1) as thread:
            return thread.submit(_export_whole, described, *args, **kwargs).result()

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
                    "Quantised, the model scores images differently, by up to %.2f: test it before you use it, give it "
                    "a threshold of its own (anomalib-students adjust), or choose another compression_type, or none.",
                    difference,
                )
        return model

    def _keep_antialiasing(self) -> None:
        """Have exported models resize images as the engine does."""
        pre_processor = getattr(self, "pre_processor", None)
        if isinstance(pre_processor, PreProcessor):
            pre_processor.export_transform = _exportable(pre_processor.transform)


class _AntialiasedResize(Transform):
    """Resize images to a height and width, or to a shorter side only, which keeps the ratio of the sides."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Resize images of shape ``(B, C, H, W)``."""
        if len(self.size) == 2:
            return antialiased_resize(inpt, *self.size)
        sides = inpt.shape[-2:]
        # A comparison would limit the sizes that the exported model takes.
        shorter = torch.sym_min(*sides)
        return antialiased_resize(inpt, *(cast("int", self.size[0] * side // shorter) for side in sides))


def _exportable(transform: Transform | None) -> Transform | None:
    """Make a transform exportable as anomalib does, but keep its antialiasing, for which torch has no operator."""
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
    """Restore afterwards which modules train, and normalise no scores without a range, which would be all NaN."""
    modes = {module: module.training for module in model.modules()}
    normalising = [module for module in modes if isinstance(module, PostProcessor) and module.enable_normalization]
    # OpenVINO fails when it compiles a quantised model that computes with NaN.
    unranged = [module for module in normalising if module.image_min.isnan() and module.pixel_min.isnan()]
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
    """Export to a hidden folder in ``export_root``, and move the files to their place when all are complete."""
    bound = inspect.signature(export).bind(*args, **kwargs)
    root = Path(bound.arguments["export_root"])
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".export-") as folder:
        bound.arguments["export_root"] = Path(folder)
        try:
            main = export(*bound.args, **bound.kwargs)
        except RuntimeError as error:
            if not any(words in str(error) for words in WRITE_FAILURES):
                raise
            number = errno.ENOSPC if shutil.disk_usage(root).free < 2**20 else errno.EIO
            reason = f"{os.strerror(number)}, so that the model is not exported; an older export is as it was"
            raise OSError(number, reason, str(root)) from error
        # The main file last, so that it is never found with the weights of another.
        files = sorted((path for path in Path(folder).rglob("*") if path.is_file()), key=main.__eq__)
        for path in files:
            with path.open("rb") as file:
                # A power cut must not leave an empty file.
                os.fsync(file.fileno())
        places = {path: root / path.relative_to(folder) for path in files}
        if len(files) > 1:
            places[main].unlink(missing_ok=True)
        for path, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    return places[main]
