"""Measure what several students give, with the predictive uncertainty v of eq. 10 from M = 2 on.

The students are those that ``detection.py`` has trained from several seeds: all hold out the same images, so that M of
them are an ensemble, whose scores are then normalised by these images. Nothing is trained.

    python benchmarks/detection.py --root datasets/MVTecAD --configurations "[default]"
    python benchmarks/ensemble.py --root datasets/MVTecAD
"""

import json
from pathlib import Path
from statistics import fmean

import torch
from detection_job import Job, cache_images, make_datamodule, students, test, train
from detection_report import markdown
from jsonargparse import auto_cli
from lightning.pytorch import seed_everything
from rich.console import Console

from anomalib_students.files import replace_file

CATEGORIES = ("pill", "screw", "SampleParts")
HARDLY = 1e-12
"""Learning rate of the single step of a fit, which normalises the scores and leaves the weights as they are."""


def ensemble(
    categories: tuple[str, ...] = CATEGORIES,
    sizes: tuple[int, ...] = (1, 2, 3),
    root: Path = Path("datasets/MVTecAD"),
    results: Path = Path("results/detection/default"),
) -> None:
    """Print AUPRO / image AUROC of ensembles of each size; what is measured is kept, and not measured again.

    Args:
        categories: Categories, as for ``detection.py``.
        sizes: Numbers of students M; those of the first M seeds make the ensemble.
        root: Folder of MVTec AD.
        results: Folder of the default's results, with the weights of each seed.
    """
    torch.set_num_threads(1)
    cache_images()
    ways = [(size, has_v) for size in sizes for has_v in (False, True) if size > 1 or not has_v]
    headings = ["", "mean of single ones", *(f"M = {size}, {'e + v' if has_v else 'e'}" for size, has_v in ways)]
    rows, gflop = [], []
    for category in categories:
        folder, measured = results / Path(category).name, []
        for size, has_v in ways:
            output = folder / f"ensemble{size}{'_v' * has_v}.json"
            if not output.is_file():
                result = measure(category, root, [folder / f"seed{seed}.pt" for seed in range(size)], has_v)
                replace_file(output, json.dumps(result, indent=1).encode())
            measured.append(json.loads(output.read_text()))
        single = [json.loads((folder / f"seed{seed}.json").read_text()) for seed in range(max(sizes))]
        rows.append([Path(category).name, mean_of(single), *(mean_of([each]) for each in measured)])
        gflop = [f"{each['gflop']:.1f}" for each in measured]
    Console(soft_wrap=True).print(markdown(headings, [*rows, ["GFLOP an image", "", *gflop]]))


def measure(category: str, root: Path, paths: list[Path], has_v: bool) -> dict[str, float]:
    """Make an ensemble of the students of several trainings, normalise its scores, and test it with or without v."""
    seed_everything(0)
    model = students(n_students=len(paths), lr=HARDLY, visualizer=False)
    state = torch.load(paths[0], weights_only=True)
    for index, path in enumerate(paths):
        trained = torch.load(path, weights_only=True)
        state |= {
            name.replace(".students.0.", f".students.{index}."): value
            for name, value in trained.items()
            if ".students.0." in name
        }
    model.load_state_dict(state)
    datamodule = make_datamodule(Job({}, category, 0, str(root), None, brightness=False, output=""))
    train(model, datamodule, {"max_steps": 1})
    if not has_v:
        for scale in model.model.scales:
            scale.uncertainty_std.fill_(torch.inf)
    return test(model, datamodule, ())


def mean_of(results: list[dict[str, float]]) -> str:
    """Mean AUPRO / image AUROC."""
    return " / ".join(f"{fmean(each[name] for each in results):.3f}" for name in ("pixel_AUPRO", "image_AUROC"))


if __name__ == "__main__":
    auto_cli(ensemble, as_positional=False)
