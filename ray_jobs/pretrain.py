"""Pretrain a teacher for each patch size at once.

    python ray_jobs/pretrain.py --images path/to/photographs --output_folder teachers     # on this machine
    python ray_jobs/pretrain.py -c pretrain.yaml --workers_per_teacher 4 --address auto   # on a cluster

Each patch size is a run of Ray Train, whose workers share each batch. The other arguments are those of
``anomalib-students pretrain``. Images, teachers and checkpoints lie in folders that all nodes share. The same command
resumes an interrupted job.
"""

import sys
from pathlib import Path

from job_arguments import SET_BY_JOBS, add_cluster, pretraining_of
from jsonargparse import ArgumentParser

from anomalib_students.cluster.pretrain import pretrain_teachers
from anomalib_students.cluster.storage import Storage
from anomalib_students.cluster.workers import connect
from anomalib_students.teacher.pretrain import pretrain
from anomalib_students.user_errors import one_line


def create_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of these arguments.")
    parser.add_argument("--patch_sizes", type=list[int], default=[17, 33, 65], help="Sides of the patches in pixels.")
    parser.add_argument("--output_folder", type=Path, required=True, help="Folder for teachers, logs and checkpoints.")
    add_cluster(parser, "teacher")
    parser.add_function_arguments(pretrain, skip={"patch_size"} | SET_BY_JOBS)
    return parser


def main(args: list[str]) -> int:
    """Pretrain the teachers; return the exit status: 1 if one failed, 2 if nothing could be started."""
    settings = create_parser().parse_args(args)
    try:
        arguments = pretraining_of(settings)
        connect(settings)
        settings.storage = Storage(str(settings.output_folder.resolve()))
        teachers = pretrain_teachers(settings, arguments)
    except (OSError, ValueError) as error:
        print(one_line("pretrain.py", error), file=sys.stderr)
        return 2
    for patch_size, (file, reason) in teachers.items():
        print(f"p = {patch_size} failed: {reason}" if reason else f"p = {patch_size}: {file}")
    return 1 if any(reason for _, reason in teachers.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
