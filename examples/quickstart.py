"""The second half of ``make quickstart``: export the trained model, inspect an image with it, and write a report."""

from pathlib import Path

import numpy as np
import torch
from anomalib.deploy import OpenVINOInferencer
from rich.console import Console

from anomalib_students.data import SampleParts
from anomalib_students.model.lightning_model import UninformedStudents
from anomalib_students.report.page import write_report
from anomalib_students.trainings import has_bfloat16

__all__ = ["main"]

RUN = Path("results/UninformedStudents/SampleParts/part/latest")


def main() -> None:
    """Export the model of the quickstart to OpenVINO, score a defective part with it, and write a report."""
    checkpoint = RUN / "weights" / "lightning" / "model.ckpt"
    if not checkpoint.is_file():
        msg = f"There is no trained model at {checkpoint}. Run `anomalib train -c configs/quickstart.yaml` first."
        raise SystemExit(msg)
    console = Console(soft_wrap=True)
    model = UninformedStudents.load_from_checkpoint(checkpoint)
    console.print("Exporting to OpenVINO ...")
    exported = model.to_openvino(RUN.resolve())

    datamodule = SampleParts()
    datamodule.prepare_data()
    folder = datamodule.root / datamodule.category / "test"
    # OpenVINO would choose bfloat16 where the processor has it, and fail where ONEDNN_MAX_CPU_ISA forbids it.
    precision = "bf16" if has_bfloat16(torch.device("cpu")) else "f32"
    inferencer = OpenVINOInferencer(exported, config={"INFERENCE_PRECISION_HINT": precision})
    image = max((folder / "scratch").iterdir())
    prediction = inferencer.predict(image)
    verdict = "anomalous" if np.all(np.asarray(prediction.pred_label)) else "good"
    score = float(np.max(np.asarray(prediction.pred_score)))
    console.print(f"OpenVINO on {image.parent.name}/{image.name}: {verdict}, score {score:.2f}")

    run = RUN.resolve().relative_to(Path.cwd())
    report = run / "report.html"
    console.print("Testing all images for the report ...")
    write_report(
        UninformedStudents.load_from_checkpoint(checkpoint),
        datamodule,
        report,
        source=str(run / checkpoint.relative_to(RUN)),
        enable_model_summary=False,
    )
    console.print(
        "",
        f"Heat maps of all test images:  {run / 'images'}",
        f"The model, for OpenVINO:       {exported.relative_to(Path.cwd())}",
        f"The model, as a checkpoint:    {run / 'weights' / 'lightning' / 'model.ckpt'}",
        "",
        "Your own parts next, from a folder with pictures of good ones:",
        "  .venv/bin/anomalib train --model UninformedStudents --data Parts --data.root path/to/my_parts",
        "",
        f"What the model decides on the test images, to look at in a browser:  {report}",
        sep="\n",
        markup=False,
        highlight=False,
    )


if __name__ == "__main__":
    main()
