"""Train models of many categories at several scales, as many at once as a cluster has room for.

    python ray_jobs/train.py                                        # embedded sample parts, on this machine
    python ray_jobs/train.py -c configs/ray_mvtec.yaml --data.root /shared/MVTecAD --storage_path /shared/results
    ray job submit --working-dir . -- python ray_jobs/train.py --address auto -c configs/ray_mvtec.yaml ...

Each category and patch size is a run of Ray Train. As soon as those of a category are done, they are merged to one
model, an ordinary checkpoint of anomalib's, and tested. ``results.csv``, ``results.md`` and ``results.png`` grow
with the categories.
"""

import sys
from argparse import ArgumentError
from pathlib import Path

from jsonargparse import ArgumentParser

from anomalib_students.paper.grid_report import grid_report
from anomalib_students.runs.command_line import add_cluster_arguments, add_experiment_arguments, experiment_of, parse
from anomalib_students.runs.connection import connect
from anomalib_students.runs.grid import run_grid
from anomalib_students.user_errors import one_line

SAMPLE_PARTS = Path(__file__).parents[1] / "configs" / "ray_sample_parts.yaml"


def create_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(description=__doc__)
    add_experiment_arguments(parser, name="train", chosen={"patch_sizes"})
    parser.add_argument("--patch_sizes", type=list[int], default=[65], help="Receptive fields in pixels.")
    parser.add_argument("--export", type=str | None, help="Export the models too: openvino, onnx or torch.")
    parser.add_argument("--report", type=bool, default=False, help="Write a report of each model too: report.html.")
    add_cluster_arguments(parser, "ensemble")
    return parser


def main(args: list[str]) -> int:
    """Run the grid; return the exit status: 1 if a category failed, 2 if nothing could be started."""
    settings = parse(create_parser(), args, without_data=SAMPLE_PARTS)
    try:
        connect(settings.address)
        experiment = experiment_of(settings, export=settings.export, report=settings.report)
        categories = settings.categories or [None]
        failures = run_grid(experiment, categories, settings.patch_sizes, grid_report, settings.resume)
    except (ArgumentError, OSError, ValueError) as error:
        print(one_line("train.py", error), file=sys.stderr)
        return 2
    for category, reason in failures.items():
        print(f"{category} failed: {reason}", file=sys.stderr)
    print(f"The results are in {settings.storage_path}/{settings.name}/results.md")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
