"""Kill commands at random, resume them, and compare the results with uninterrupted runs.

Four commands on tiny data are each killed with SIGKILL, with all processes that they have started: ``anomalib train``,
``anomalib-students pretrain``, an OpenVINO export over an older one, and the Ray job that trains a grid. Every second
kill, and every one of a grid, comes at a random time, the others within 10 ms of the beginning of a write. The command
is then resumed. It has to succeed, with the weights of an uninterrupted run to 1e-5. No file may be lost, or be
half-written under its final name. After the kill of an export there has to be the old or the new one as a whole.
Finally, the memory of ``OpenVINOInferencer`` must not grow over a thousand images.

    python benchmarks/soak.py                                          # 50 kills, about half an hour on one core
    python benchmarks/soak.py --train 2 --pretrain 2 --export 2 --grid 0 --predictions 100

Each kill is recorded in ``results/soak/kills.json``; the same command resumes an interrupted soak. The exit status is 1
if a check failed; the folders of those kills, and their logs, are then kept beside that file. It needs Linux.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import soak_jobs
import torch
from jsonargparse import auto_cli
from measuring import commit, machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from soak_checks import RESULTS, State, damaged, difference, lost, missing
from soak_processes import Job, Watched, visible_files

from anomalib_students.files import replace_file

TOLERANCE = 1e-5
FLAT = 5.0
"""Megabytes by which flat memory may grow."""
LONGEST_DELAY = 0.01
"""Most seconds between the beginning of a write and the kill."""
SOONER = 0.7
"""Part of the time after which a job is killed at the next try if it has ended before."""


@dataclass
class Kill:
    """A kill, and its outcome.

    Attributes:
        kind: Kind of job.
        number: Number of the kill among those of its kind.
        seed: Seed of the soak.
        seconds: Time of the kill after the start.
        in_write: Whether a file was half-written, under another name than its own.
        resumed: Whether there was a state to resume from.
        difference: Largest difference of the resumed run from the uninterrupted one.
        problems: Checks that failed.
    """

    kind: str
    number: int
    seed: int
    seconds: float = 0.0
    in_write: bool = False
    resumed: bool = False
    difference: float = float("inf")
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run.

    Attributes:
        seconds: Time that it took.
        first_checkpoint: Seconds until its first checkpoint.
        files: Files that it made.
        state: Its final weights and results.
    """

    seconds: float
    first_checkpoint: float
    files: frozenset[Path]
    state: State


class Soak:
    """Jobs in a folder, the uninterrupted runs that they are compared with, and a seed of the times."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self.shared = folder / "shared"
        self._references: dict[str, Reference] = {}

    def prepare(self) -> None:
        """Write what the jobs share, which imports all that they need."""
        shutil.rmtree(self.shared, ignore_errors=True)
        self.shared.mkdir(parents=True)
        self._run(soak_jobs.prepare, self._folder / "prepare")

    def prepare_exports(self) -> None:
        """Export a trained model, and another one that its export replaces; once."""
        if (self.shared / "new").is_dir():
            return
        self.reference("train")
        last = torch.load(soak_jobs.checkpoints(self._folder / "reference" / "train")[-1], weights_only=False)
        torch.save(last, self.shared / "new.ckpt")
        for name, weights in last["state_dict"].items():
            if ".students." in name:
                weights.mul_(0.9)
        torch.save(last, self.shared / "old.ckpt")
        for name in ("old", "new"):
            self._run(soak_jobs.export, self.shared / name, checkpoint=f"{name}.ckpt")

    def reference(self, kind: str) -> Reference:
        """Run a job without interruption, once."""
        if kind not in self._references:
            folder = self._folder / "reference" / kind
            self._begin(kind, folder)
            watched = self._run(getattr(soak_jobs, kind), folder)
            state = RESULTS[kind](folder)
            self._references[kind] = Reference(watched.seconds, watched.first_checkpoint, watched.files, state)
        return self._references[kind]

    def kill(self, kind: str, number: int) -> Kill:
        """Kill a job, whose number decides the time, and resume it."""
        if kind == "export":
            self.prepare_exports()
        reference = self.reference(kind)
        kill = Kill(kind, number, self._seed)
        numbers = random.Random(f"{self._seed} {kind} {number}")
        # Those of a grid are too short to be met.
        in_write = number % 2 == 1 and kind != "grid"
        # The first write is but one of many.
        earliest = reference.first_checkpoint if in_write else 0.0
        after, delay = numbers.uniform(earliest, reference.seconds), numbers.uniform(0, LONGEST_DELAY)
        folder = self._folder / f"{kind}-{number}"
        job = getattr(soak_jobs, kind)
        while True:
            self._begin(kind, folder)
            watched = Job(job, self.shared, folder).watch(after, in_write, delay)
            if watched.status is None:
                break
            after *= SOONER
        files = visible_files(folder)
        kill.seconds, kill.in_write = round(watched.seconds, 3), watched.was_writing
        kill.problems += lost(watched.files, files) + damaged(folder, files)
        if kind == "export":
            kill.resumed = True
            kill.problems += self._neither_old_nor_new(folder)
        else:
            kill.resumed = bool(soak_jobs.checkpoints(folder))
        resumed = Job(job, self.shared, folder).watch()
        if resumed.status:
            kill.problems.append(f"the resumed run ended with status {resumed.status}, see {folder.name}.log")
        else:
            kill.problems += lost(watched.files, resumed.files) + damaged(folder, resumed.files)
            kill.problems += missing(reference.files, resumed.files)
            kill.difference = difference(reference.state, RESULTS[kind](folder))
            if kill.difference > TOLERANCE:
                kill.problems.append(f"differs from the uninterrupted run by {kill.difference}")
        if not kill.problems:
            shutil.rmtree(folder)
            folder.with_suffix(".log").unlink()
        return kill

    def predict(self, number: int) -> tuple[float, float]:
        """Predict images one after the other; return megabytes of memory after the warm-up and at the end."""
        self.prepare_exports()
        folder = self._folder / "predictions"
        self._run(soak_jobs.predictions, folder, number=number)
        before, after = json.loads((folder / "memory.json").read_text())
        return before, after

    def _begin(self, kind: str, folder: Path) -> None:
        """Make the initial folder of a job: empty except for an older export."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.with_suffix(".log").unlink(missing_ok=True)
        if kind == "export":
            shutil.copytree(self.shared / "old", folder, dirs_exist_ok=True)

    def _run(self, function: Callable[..., None], folder: Path, **arguments: object) -> Watched:
        watched = Job(function, self.shared, folder, **arguments).watch()
        if watched.status:
            msg = f"Without a kill, the job ended with status {watched.status}: see {folder.with_suffix('.log')}"
            raise RuntimeError(msg)
        return watched

    def _neither_old_nor_new(self, folder: Path) -> list[str]:
        exported = RESULTS["export"](folder)
        wholes = [RESULTS["export"](self.shared / name) for name in ("old", "new")]
        return [] if any(difference(exported, whole) == 0 for whole in wholes) else ["the export is half-written"]


def soak(
    train: int = 20,
    pretrain: int = 15,
    export: int = 10,
    grid: int = 5,
    predictions: int = 1000,
    seed: int = 0,
    folder: Path = Path("results/soak"),
) -> None:
    """Kill, resume, compare, and print a table.

    Args:
        train: Kills of ``anomalib train``.
        pretrain: Kills of ``anomalib-students pretrain``.
        export: Kills of ``anomalib export`` over an older export.
        grid: Kills of the Ray job ``train.py``.
        predictions: Images that are predicted.
        seed: Seed of the times of the kills.
        folder: Folder for results, and for what the jobs write.
    """
    output = folder.resolve() / "kills.json"
    kills = [Kill(**record) for record in json.loads(output.read_text())] if output.is_file() else []
    done = {(kill.kind, kill.number) for kill in kills if kill.seed == seed}
    planned = {"train": train, "pretrain": pretrain, "export": export, "grid": grid}
    wanted = [(kind, number) for kind, count in planned.items() for number in range(count)]
    console = Console()
    with Progress(console=console) as progress:
        task = progress.add_task("Preparation", total=len(wanted) + 1)
        runs = Soak(output.parent, seed)
        runs.prepare()
        progress.advance(task)
        for kind, number in wanted:
            progress.update(task, description=f"{kind} {number + 1}/{planned[kind]}")
            if (kind, number) not in done:
                kills.append(runs.kill(kind, number))
                replace_file(output, json.dumps([asdict(kill) for kill in kills], indent=1).encode())
            progress.advance(task)
        progress.update(task, description=f"{predictions} predictions")
        before, after = runs.predict(predictions) if predictions else (0.0, 0.0)
    chosen = [kill for kill in kills if kill.seed == seed and (kill.kind, kill.number) in set(wanted)]
    console.print(table_of(chosen, f"{machine(torch.device('cpu'))}, {commit() or 'unknown commit'}"))
    console.print(f"Memory: {before:,.0f} MB after the warm-up, {after:,.0f} MB after {predictions} more predictions.")
    for kill in chosen:
        for problem in kill.problems:
            console.print(f"{kill.kind} {kill.number}, killed after {kill.seconds} s: {problem}", markup=False)
    if any(kill.problems for kill in chosen) or after - before > FLAT:
        sys.exit(1)


def table_of(kills: list[Kill], title: str) -> Table:
    """Count the kills that passed, by kind of job."""
    table = Table("command", title=title)
    for heading in ("kills", "while writing", "resumed", "as if uninterrupted", "largest difference"):
        table.add_column(heading, justify="right")
    for kind in dict.fromkeys(kill.kind for kill in kills):
        of_kind = [kill for kill in kills if kill.kind == kind]
        table.add_row(
            kind,
            str(len(of_kind)),
            str(sum(kill.in_write for kill in of_kind)),
            str(sum(kill.resumed for kill in of_kind)),
            str(sum(not kill.problems for kill in of_kind)),
            f"{max(kill.difference for kill in of_kind):.1e}",
        )
    return table


if __name__ == "__main__":
    auto_cli(soak, as_positional=False)
