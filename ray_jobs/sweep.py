"""Sweep the weights of the teacher's loss (eq. 6), to find those with which students detect anomalies best.

    python ray_jobs/sweep.py                                        # embedded sample parts, on this machine
    python ray_jobs/sweep.py -c sweep.yaml --address auto --images /shared/photographs

Each trial pretrains a teacher for some iterations and trains students with it. They are judged on good images that are
held out of the training, half of them with synthetic anomalies. The test images are measured too, but do not affect the
choice. Weak trials are stopped early. The paper's four settings (Table 2) are always among the trials.

The result is a table, ``sweep.csv`` and ``sweep.md``, and ``best.yaml``, with which a teacher is pretrained at full
length: ``anomalib-students pretrain -c best.yaml --output teacher.safetensors --max_steps 50000``. The same command
resumes an interrupted sweep.
"""

import sys
from argparse import ArgumentError
from pathlib import Path

from job_arguments import SET_BY_JOBS, add_cluster, add_training, parse, pretraining_of
from jsonargparse import ArgumentParser

from anomalib_students.cluster.sweep import WEIGHTS, run_sweep, sweep_files
from anomalib_students.cluster.workers import connect
from anomalib_students.data import SampleParts
from anomalib_students.teacher.pretrain import pretrain
from anomalib_students.user_errors import one_line

SAMPLE_PARTS = Path(__file__).parents[1] / "configs" / "ray_sweep_sample_parts.yaml"
OTHERS = ("lr", "descriptor_dim", "source_layer")
"""Arguments of the pretraining that can be swept with the weights."""


def create_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of these arguments.")
    add_training(parser, "sweep", chosen={"patch_sizes", "teacher", "descriptor_dim"})
    parser.add_argument(
        "--images", type=Path | None, help="Photographs for the pretraining; by default the sample parts."
    )
    parser.add_argument("--lambda_k", type=list[float], default=[0, 1], help="Weights of the distillation to try.")
    parser.add_argument("--lambda_m", type=list[float], default=[0, 1], help="Weights of the metric learning to try.")
    parser.add_argument("--lambda_c", type=list[float], default=[0, 0.01, 0.1, 1], help="Weights of the compactness.")
    for name in OTHERS:
        parser.add_argument(f"--{name}", type=list[str | int | float] | None, help=f"Values of {name} to try too.")
    parser.add_argument("--trials", type=int, default=12, help="Number of trials, including the paper's four.")
    parser.add_argument("--epochs", type=int, default=4, help="Epochs that the students of a trial are trained for.")
    parser.add_argument("--metric", default="pixel_AUPRO", help="Metric on the validation images to maximise.")
    parser.add_function_arguments(pretrain, "pretraining", skip={"images", *WEIGHTS, *SET_BY_JOBS})
    add_cluster(parser, "trial")
    return parser


def main(args: list[str]) -> int:
    """Run the sweep; return the exit status: 1 if no trial finished, 2 if nothing could be started."""
    settings = parse(create_parser(), args, without_data=SAMPLE_PARTS)
    try:
        settings.pretraining.images = settings.images or sample_images()
        pretraining = pretraining_of(settings.pretraining)
        connect(settings)
        choices = {name: settings[name] for name in (*WEIGHTS, *OTHERS) if settings[name]}
        files = sweep_files(settings, pretraining, choices, run_sweep(settings, pretraining, choices))
        for name, content in files.items():
            settings.storage.write(name, content)
    except (ArgumentError, OSError, ValueError) as error:
        print(one_line("sweep.py", error), file=sys.stderr)
        return 2
    print(files["sweep.md"].decode())
    print(f"The results are in {settings.storage.location}")
    return 0 if "best.yaml" in files else 1


def sample_images() -> Path:
    """Write the sample parts, and return the folder of those to train on."""
    datamodule = SampleParts()
    datamodule.prepare_data()
    return datamodule.root / datamodule.category / "train"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
