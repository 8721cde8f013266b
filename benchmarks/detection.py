"""Measure how well each configuration detects, and what it costs, beside anomalib's Padim and Patchcore.

Every configuration is trained on every category from every seed through anomalib's engine, and tested on all test
images: AUPRO up to a false positive rate of 0.3, AUROC of pixels and images, and on demand AUROC of images that are
darker and brighter than those trained on. Each job is a process that computes in one thread, and writes a file to
``results/detection/<configuration>/<category>``. The same command resumes an interrupted run: jobs with a result are
skipped, unless their settings have changed.

    python benchmarks/detection.py --root datasets/MVTecAD --resnet18 path/to/resnet18.safetensors --jobs 2 --brightness
    python benchmarks/detection.py --root datasets/MVTecAD --steps 5000 --output results/ablation --seeds "[0]"
    python benchmarks/detection.py --milliseconds
    python benchmarks/detection.py --report

A category is the name of a folder in the root, the path of a folder in MVTec AD's layout, or ``SampleParts``. Without
masks, only its images are judged.
``--configurations "[shipped,padim]" --categories "[pill]" --seeds "[0]"`` select jobs. Inference is timed separately,
on an idle machine.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import torch
from anomalib.data import SampleParts
from anomalib.models import UninformedStudents
from anomalib.models.components import AnomalibModule
from detection_job import Job, settings
from detection_report import write_report
from inference import CORESET, Way, compare, parts, random_padim, random_patchcore
from jsonargparse import ArgumentParser
from measuring import machine
from rich.console import Console

from anomalib_students.data.mvtec import check_layout
from anomalib_students.files import replace_file

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # A row has the class of the model ("model", UninformedStudents if there is none) and its "arguments", and may have
    # settings of the "trainer" and arguments of the "data" module, and the "side" in pixels that images are resized to.
    "default": {},
    # The default without one of its ingredients.
    "p = 83": {"arguments": {"patch_sizes": [83]}},
    "p = 167": {"arguments": {"patch_sizes": [167]}},
    "three students": {"arguments": {"n_students": 3}},
    "all pixels": {"arguments": {"hard_fraction": 1.0}},
    "constant light": {"arguments": {"light_jitter": 0.0}},
    "no synthetic defects": {"arguments": {"synthetic_defects": 0.0}},
    "largest pixel": {"arguments": {"score_fraction": 0.0}},
    "not whitened": {"arguments": {"whitening": False}},
    "one mean error": {"arguments": {"local_mean": 0.0}},
    "own first layers": {"arguments": {"shared_layers": 0}},
    "Adam": {"arguments": {"optimizer": "adam", "lr": 1e-3}},
    "constant lr": {"arguments": {"lr_schedule": "constant"}},
    # configs/mvtec_cpu.yaml, but at the size of the others.
    "paper": {
        "arguments": {"preset": "paper", "patch_sizes": [33], "lr": 1e-3, "lr_schedule": "cosine"},
        "trainer": {"max_epochs": 12},
    },
    "padim": {
        "model": "Padim",
        "arguments": {"backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"], "pre_trained": False},
    },
    "patchcore": {
        "model": "Patchcore",
        "arguments": {"backbone": "resnet18", "layers": ["layer2", "layer3"], "pre_trained": False},
    },
    # Patchcore's paper has both: 10 % of the descriptors, anomalib's default, and 1 %, in a tenth of the time.
    "patchcore_1_percent": {
        "model": "Patchcore",
        "arguments": {
            "backbone": "resnet18",
            "layers": ["layer2", "layer3"],
            "pre_trained": False,
            "coreset_sampling_ratio": 0.01,
        },
    },
}
CATEGORIES = ("pill", "screw", "SampleParts")
WAYS: tuple[Way, ...] = ("openvino bf16", "openvino int8")
RUNS = 20
"""Times that an image is timed in each way."""
FLAGS = {
    "brightness": "Test with the brightness of the test images changed too.",
    "milliseconds": "Do nothing but take the times of inference.",
    "report": "Do nothing but write report.md from the results there are.",
}

console = Console(soft_wrap=True, highlight=False)


def detection(
    configurations: tuple[str, ...] = tuple(CONFIGURATIONS),
    categories: tuple[str, ...] = CATEGORIES,
    seeds: tuple[int, ...] = (0, 1, 2),
    root: Path = Path("datasets/MVTecAD"),
    resnet18: Path | None = None,
    jobs: int = 1,
    steps: int | None = None,
    output: Path = Path("results/detection"),
    brightness: bool = False,
) -> int:
    """Run the jobs without a result, those of the first seed first, and return how many failed.

    Args:
        configurations: Rows of the table at the top of the script.
        categories: Folders in the root, paths of folders in MVTec AD's layout, or SampleParts.
        seeds: Seeds of the trainings.
        root: Folder of MVTec AD.
        resnet18: File of the ResNet-18 for Padim and Patchcore: safetensors, its weights named as timm names them.
        jobs: Trainings at the same time, in one thread each.
        steps: Steps of each training of ours, to compare more configurations in the same time; the default by default.
        output: Folder of the results.
        brightness: Whether to test with the brightness of the test images changed too.
    """
    check(configurations, categories, root, resnet18)
    wanted = [
        Job(
            configuration=shortened(CONFIGURATIONS[configuration], steps),
            category=category,
            seed=seed,
            root=str(root),
            resnet18=None if resnet18 is None else str(resnet18),
            brightness=brightness,
            output=str(output / configuration / Path(category).name / f"seed{seed}.json"),
        )
        for seed, category, configuration in product(seeds, categories, configurations)
    ]
    left = [job for job in wanted if not job.is_done()]
    console.print(f"{len(wanted)} jobs, {len(wanted) - len(left)} of them done.")
    failed = 0
    with ThreadPoolExecutor(jobs) as executor:
        runs = [executor.submit(run, job) for job in left]
        try:
            for n_done, future in enumerate(as_completed(runs), start=1):
                failed += not future.result()
                console.print(f"{len(left) - n_done} left")
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            sys.exit("Interrupted. The same command resumes from here.")
    return failed


def shortened(configuration: dict[str, Any], steps: int | None) -> dict[str, Any]:
    """Limit the steps of a training of ours."""
    if steps is None or "model" in configuration:
        return configuration
    return {**configuration, "trainer": {**configuration.get("trainer", {}), "max_steps": steps}}


def check(configurations: tuple[str, ...], categories: tuple[str, ...], root: Path, resnet18: Path | None) -> None:
    """Check the arguments, and unpack the sample parts before two jobs do so at once."""
    if unknown := set(configurations) - set(CONFIGURATIONS):
        sys.exit(f"No such configuration: {', '.join(sorted(unknown))}. There are {', '.join(CONFIGURATIONS)}.")
    needs_resnet18 = any(CONFIGURATIONS[name].get("model") in {"Padim", "Patchcore"} for name in configurations)
    if needs_resnet18 and (resnet18 is None or not resnet18.is_file()):
        sys.exit(f"Padim and Patchcore need the file of a ResNet-18: --resnet18 is {resnet18}.")
    try:
        for name in configurations:
            settings(CONFIGURATIONS[name], None)
        for category in categories:
            if category == "SampleParts":
                SampleParts().prepare_data()
            else:
                folder = root / category
                if (folder / "ground_truth").is_dir() or not (folder / "train" / "good").is_dir():
                    check_layout(folder.parent, folder.name)
    except FileNotFoundError as error:
        # A teacher or a category is missing, and the message says which.
        sys.exit(str(error))


def run(job: Job) -> bool:
    """Run a job in its own process, which logs to a file, and return whether it succeeded."""
    output = Path(job.output)
    name = f"{output.parent.parent.name}, {output.parent.name}, seed {job.seed}"
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    console.print(f"{name}: started")
    command = [sys.executable, str(Path(__file__).with_name("detection_job.py")), json.dumps(job._asdict())]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, **one_thread}, check=False)
    if process.returncode != 0:
        lines = log.read_text().strip().splitlines() or ["no message"]
        console.print(f"{name}: failed with {process.returncode}, {lines[-1]} (see {log})", markup=False)
        return False
    result = json.loads(output.read_text())
    figures = ", ".join(f"{key} {result[key]:.3f}" for key in ("pixel_AUPRO", "pixel_AUROC", "image_AUROC"))
    console.print(f"{name}: {figures}, trained in {result['training_seconds']:.0f} s")
    return True


def time_inference(configurations: tuple[str, ...], output: Path) -> None:
    """Measure milliseconds for an image, with random weights, in OpenVINO on all cores."""
    for name in configurations:
        configuration = CONFIGURATIONS[name]
        path = output / name / "milliseconds.json"
        described = settings(configuration, None)
        if path.is_file() and json.loads(path.read_text())["settings"] == described:
            continue
        torch.manual_seed(0)
        side = configuration.get("side", described["arguments"].get("image_size", 256))
        milliseconds = compare(untrained(configuration, side).eval(), WAYS, 1, "latency", side, RUNS)
        result = {"settings": described, "machine": machine(torch.device("cpu")), **milliseconds}
        replace_file(path, json.dumps(result, indent=1).encode())
        console.print(f"{name}: {', '.join(f'{way} {value:.1f} ms' for way, value in milliseconds.items())}")


def untrained(configuration: dict[str, Any], side: int) -> AnomalibModule:
    """Make a model without training; anomalib's have the sizes that 240 training images lead to."""
    arguments = configuration.get("arguments", {})
    match configuration.get("model"):
        case "Padim":
            return random_padim(side)
        case "Patchcore":
            return random_patchcore(side, arguments.get("coreset_sampling_ratio", CORESET))
    return UninformedStudents(**{**arguments, "teacher": None}, **parts(UninformedStudents, side))


def main() -> None:
    """Run the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_function_arguments(detection, as_group=False, skip={"brightness"})
    for flag, text in FLAGS.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    options = vars(parser.parse_args())
    report, milliseconds = options.pop("report"), options.pop("milliseconds")
    if report:
        console.print(write_report(options["output"]), markup=False)
    elif milliseconds:
        time_inference(options["configurations"], options["output"])
    elif detection(**options):
        sys.exit("Some jobs failed.")


if __name__ == "__main__":
    main()
