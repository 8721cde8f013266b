"""Train models of many categories at several scales, as many at once as a cluster has room for.

    python ray_jobs/train.py                                        # embedded sample parts, on this machine
    python ray_jobs/train.py -c configs/ray_mvtec.yaml --data.root /shared/MVTecAD --storage_path /shared/results
    ray job submit --working-dir . -- python ray_jobs/train.py --address auto -c configs/ray_mvtec.yaml ...

Each category and patch size is a run of Ray Train. As soon as those of a category are done, they are merged to one
model, an ordinary checkpoint of anomalib's, and tested. ``results.md``, ``results.csv`` and ``results.json`` grow with
the categories. The same command resumes an interrupted job.
"""

import sys
from argparse import ArgumentError
from pathlib import Path

from job_arguments import SET_BY_JOBS, add_cluster, add_training, parse, pretraining_of
from jsonargparse import ArgumentParser

from anomalib_students.cluster.train import train_categories
from anomalib_students.cluster.workers import connect
from anomalib_students.model.settings import PRESETS, settings_of
from anomalib_students.teacher.pretrain import pretrain
from anomalib_students.user_errors import one_line

SAMPLE_PARTS = Path(__file__).parents[1] / "configs" / "ray_sample_parts.yaml"
OF_THE_MODEL = {"images", "patch_size", "architecture", "descriptor_dim"}
"""Arguments of the pretraining that follow from others."""


def create_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of these arguments.")
    add_training(parser, "train", chosen={"patch_sizes"})
    parser.add_argument(
        "--patch_sizes", type=list[int], default=[*PRESETS["default"].patch_sizes], help="Receptive fields in pixels."
    )
    parser.add_argument("--export", type=str | None, help="Export the models too: openvino, onnx or torch.")
    parser.add_argument("--report", type=bool, default=False, help="Write a report of each model too: report.html.")
    parser.add_argument("--teacher_images", type=Path | None, help="Photographs to pretrain the teachers on first.")
    parser.add_function_arguments(pretrain, "pretraining", skip=OF_THE_MODEL | SET_BY_JOBS)
    add_cluster(parser, "ensemble")
    return parser


def main(args: list[str]) -> int:
    """Train the models; return the exit status: 1 if a category failed, 2 if nothing could be started."""
    settings = parse(create_parser(), args, without_data=SAMPLE_PARTS)
    pretraining = None
    try:
        if settings.teacher_images:
            settings.pretraining.images = settings.teacher_images
            model = settings_of(settings.model["preset"], settings.model)
            network = {"architecture": model.architecture, "descriptor_dim": model.dim}
            pretraining = {**pretraining_of(settings.pretraining), **network}
        connect(settings)
        failures = train_categories(settings, pretraining)
    except (ArgumentError, OSError, ValueError) as error:
        print(one_line("train.py", error), file=sys.stderr)
        return 2
    for category, reason in failures.items():
        print(f"{category} failed: {reason}", file=sys.stderr)
    print(f"The results are in {settings.storage_path}/{settings.name}/results.md")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
