r"""Compare the time to inspect an image with our models and models of anomalib, in PyTorch and in OpenVINO.

Every model is exported by the same call, ``to_openvino``, and timed by the same code on the same image. Only time is
measured: all weights are random, and so are the memory bank of Patchcore and the Gaussians of Padim, in the sizes that
240 training images lead to. Patchcore, Padim and Stfpm have the backbone resnet18. The quantised models are calibrated
on the embedded sample parts.

A row is a model, a batch size and a hint of OpenVINO's: ``latency`` runs one batch after the other, ``throughput`` as
many at once as OpenVINO finds best. Times are per image. All ways of a row are timed in turns, so that a drift of the
machine's speed affects all of them.

    python benchmarks/inference.py --side 320
    python benchmarks/inference.py --architecture paper --patch_sizes "[[33],[33,65],[17,33,65]]" --n_students "[3]" \
        --output_strides "[4]" --others "[]"
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest.mock import patch

import openvino
import torch
from anomalib.deploy import CompressionType
from anomalib.models import EfficientAd, Padim, Patchcore, Stfpm, UninformedStudents
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor
from jsonargparse import auto_cli
from measuring import machine
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_students.data import SampleParts
from anomalib_students.networks.patch_network import Architecture

Way = Literal["eager", "eager bf16", "compiled", "openvino f32", "openvino bf16", "openvino int8"]
Hint = Literal["latency", "throughput"]

TRAINING_IMAGES = 240
CORESET = 0.1
"""Fraction of the training images' descriptors in Patchcore's memory bank, anomalib's default."""
BATCHES_IN_FLIGHT = 8
"""Batches that are timed together where OpenVINO may work at several."""


def inference(
    patch_sizes: tuple[tuple[int, ...], ...] = ((83, 167),),
    architecture: Architecture = "lean",
    n_students: tuple[int, ...] = (1,),
    output_strides: tuple[int, ...] = (8,),
    others: tuple[Literal["EfficientAd", "Patchcore", "Padim", "Stfpm"], ...] = (
        "EfficientAd",
        "Patchcore",
        "Padim",
        "Stfpm",
    ),
    ways: tuple[Way, ...] = ("eager", "eager bf16", "openvino f32", "openvino bf16", "openvino int8"),
    batch_sizes: tuple[int, ...] = (1,),
    hints: tuple[Hint, ...] = ("latency",),
    side: int = 256,
    runs: int = 5,
) -> None:
    """Print milliseconds an image, and how many times as fast as OpenVINO in float32 the fastest way is.

    Args:
        patch_sizes: Scales of our models, each a list of receptive fields p.
        architecture: Their networks.
        n_students: Their numbers of students M.
        output_strides: Their distances in pixels between scored pixels.
        others: Models of anomalib's.
        ways: Ways to run the models. ``compiled`` is ``torch.compile``, which takes minutes to start.
        batch_sizes: Images at a time.
        hints: Performance hints of OpenVINO.
        side: Side of the images in pixels.
        runs: Times that each way is timed.
    """
    models: dict[str, Callable[[], AnomalibModule]] = {
        f"{architecture} p = {' + '.join(map(str, sizes))}, M = {students}, stride {stride}": partial(
            UninformedStudents,
            patch_sizes=sizes,
            architecture=architecture,
            n_students=students,
            output_stride=stride,
            teacher=None,
            **parts(UninformedStudents, side),
        )
        for sizes in patch_sizes
        for students in n_students
        for stride in output_strides
    }
    models |= {name: partial(globals()[f"random_{name.lower()}"], side) for name in others}
    table = Table(title=f"{machine(torch.device('cpu'))}, {side} px; milliseconds an image")
    for heading in ("model", "batch", "hint", *ways, "best / f32"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, create in track(models.items(), description="Models"):
        torch.manual_seed(0)
        model = create().eval()
        for batch_size in batch_sizes:
            for hint in hints:
                milliseconds = compare(model, ways, batch_size, hint, side, runs)
                ratio = milliseconds.get("openvino f32", float("nan")) / min(milliseconds.values())
                times = (f"{milliseconds[way]:.0f}" if way in milliseconds else "fails" for way in ways)
                table.add_row(name, str(batch_size), hint, *times, f"{ratio:.1f}")
    Console(width=160).print(table)


def compare(
    model: AnomalibModule, ways: tuple[Way, ...], batch_size: int, hint: Hint, side: int, runs: int
) -> dict[Way, float]:
    """Time all ways of running a model in milliseconds per image."""
    images = torch.rand(batch_size, 3, side, side)
    with TemporaryDirectory() as folder:
        # A folder each: OpenVINO maps the file of a model that it has read.
        calls = {way: call for way in ways if (call := try_to_prepare(model, way, images, hint, Path(folder) / way))}
    times: dict[Way, list[float]] = {way: [] for way in calls}
    for run in range(runs + 1):
        for way, (call, n_images) in calls.items():
            start = time.perf_counter()
            call()
            # The first warms up.
            if run > 0:
                times[way].append((time.perf_counter() - start) / n_images)
    return {way: 1e3 * statistics.median(values) for way, values in times.items()}


def try_to_prepare(
    model: AnomalibModule, way: Way, images: torch.Tensor, hint: Hint, folder: Path
) -> tuple[Callable[[], object], int] | None:
    """Make the call to time, or return why that fails: not every model of anomalib's can be run in every way."""
    try:
        return prepare(model, way, images, hint, folder)
    except (RuntimeError, ValueError) as error:
        Console().print(f"{type(model).__name__}, {way}: {error}", markup=False)
        return None


def prepare(
    model: AnomalibModule, way: Way, images: torch.Tensor, hint: Hint, folder: Path
) -> tuple[Callable[[], object], int]:
    """Make the call to time, and return how many images it processes."""
    runtime, _, variant = way.partition(" ")
    if runtime == "openvino":
        return prepare_openvino(model, variant, images, hint, folder)
    module = torch.compile(model.model) if runtime == "compiled" else model.model

    def call() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            module(images)

    return call, len(images)


def prepare_openvino(
    model: AnomalibModule, precision: str, images: torch.Tensor, hint: Hint, folder: Path
) -> tuple[Callable[[], object], int]:
    """Export and compile a model."""
    quantisation = {}
    if precision == "int8":
        # As many at a time as Patchcore takes when it is exported.
        datamodule = SampleParts(eval_batch_size=2)
        datamodule.prepare_data()
        quantisation = {"compression_type": CompressionType.INT8_PTQ, "datamodule": datamodule}
    exported = openvino.Core().read_model(model.to_openvino(folder, input_size=images.shape[-2:], **quantisation))
    batch_size = exported.input(0).partial_shape[0]
    if batch_size.is_static:
        # anomalib exports Patchcore only for a batch of 2.
        images = images[:1].expand(batch_size.get_length(), -1, -1, -1)
    exported.reshape(list(images.shape))
    settings = {"PERFORMANCE_HINT": hint.upper()}
    if precision != "int8":
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.compile_model(exported, "CPU", settings)
    if hint == "latency":
        return partial(compiled, images.numpy()), len(images)
    queue = openvino.AsyncInferQueue(compiled)

    def call() -> None:
        for _ in range(BATCHES_IN_FLIGHT):
            queue.start_async(images.numpy())
        queue.wait_all()

    return call, BATCHES_IN_FLIGHT * len(images)


def parts(model: type[AnomalibModule], side: int) -> dict[str, Any]:
    """Make the parts that all models share: images of the given side, and unchanged scores."""
    return {"pre_processor": model.configure_pre_processor((side, side)), "post_processor": False}


def random_efficientad(side: int) -> EfficientAd:
    """Make EfficientAd's small model."""
    return EfficientAd(**parts(EfficientAd, side))


def random_patchcore(side: int, coreset: float = CORESET) -> Patchcore:
    """Make Patchcore with a memory bank of the usual size, or of another fraction of the descriptors."""
    model = Patchcore(backbone="resnet18", pre_trained=False, **parts(Patchcore, side))
    model.model.memory_bank = torch.rand(int(TRAINING_IMAGES * coreset * (side // 8) ** 2), 384)
    return model


def random_padim(side: int) -> Padim:
    """Make Padim with a Gaussian for each place."""
    model = Padim(backbone="resnet18", pre_trained=False, **parts(Padim, side))
    places, features = (side // 4) ** 2, model.model.n_features
    model.model.gaussian.mean = torch.rand(features, places)
    model.model.gaussian.inv_covariance = torch.rand(places, features, features)
    return model


def random_stfpm(side: int) -> Stfpm:
    """Make Stfpm without downloading its teacher."""
    untrained = partial(_untrained, TimmFeatureExtractor)
    with patch("anomalib.models.image.stfpm.torch_model.TimmFeatureExtractor", untrained):
        return Stfpm(**parts(Stfpm, side))


def _untrained(extractor: Callable[..., TimmFeatureExtractor], **arguments: object) -> TimmFeatureExtractor:
    return extractor(**{**arguments, "pre_trained": False})


if __name__ == "__main__":
    auto_cli(inference, as_positional=False)
