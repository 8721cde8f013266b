"""Processes of the soak: forked from one that has imported everything, and killed with all their children."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from soak_jobs import PRELOADED

__all__ = ["Job", "Watched", "is_writing", "visible_files"]

MARK = "ANOMALIB_STUDENTS_SOAK"
"""Environment variable by which the programs that a job starts are found, with those that they start."""
LIMIT = 600.0
"""Seconds after which a job hangs."""


class Watched(NamedTuple):
    """What was seen of a job.

    Attributes:
        seconds: How long it ran.
        status: Its exit status, None if it was killed.
        files: Files under their final names.
        first_checkpoint: Seconds until the first checkpoint, 0 if there was none.
        was_writing: Whether it was writing a file when it was killed.
    """

    seconds: float
    status: int | None
    files: frozenset[Path]
    first_checkpoint: float
    was_writing: bool


class Job:
    """A process that calls a function of a shared folder, its working directory ``folder`` and keyword arguments.

    Its output is logged beside the working directory.
    """

    def __init__(self, function: Callable[..., None], shared: Path, folder: Path, **arguments: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._mark = uuid4().hex
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_run, args=(self._mark, function, shared, folder), kwargs=arguments)

    def watch(self, kill_after: float | None = None, in_write: bool = False, delay: float = 0.0) -> Watched:
        """Run the job to its end, or kill it; raise a TimeoutError if it hangs.

        Args:
            kill_after: Seconds after which it is killed; None to let it end.
            in_write: Whether the kill waits for a write that begins after that.
            delay: Seconds between the beginning of the write and the kill.
        """
        start = time.monotonic()
        self._process.start()
        files: frozenset[Path] = frozenset()
        first_checkpoint = 0.0
        while self._process.is_alive():
            looked = time.monotonic()
            seconds = looked - start
            if kill_after is not None and seconds >= kill_after and (not in_write or is_writing(self._folder)):
                time.sleep(delay if in_write else 0)
                self._kill()
                was_writing = is_writing(self._folder)
                return Watched(seconds, None, files, first_checkpoint, was_writing)
            if seconds > LIMIT:
                self._kill()
                msg = f"The job in {self._folder} hangs."
                raise TimeoutError(msg)
            files = visible_files(self._folder)
            if not first_checkpoint and any(path.suffix == ".ckpt" for path in files):
                first_checkpoint = seconds
            # To look at a large folder takes time that the job, at a lower priority with Ray, would lack.
            time.sleep(max(0.001, 5 * (time.monotonic() - looked)))
        self._process.join()
        seconds = time.monotonic() - start
        # A cluster that the job has started is no part of the next one's.
        self._kill()
        files = visible_files(self._folder)
        return Watched(seconds, self._process.exitcode, files, first_checkpoint, was_writing=False)

    def _kill(self) -> None:
        """Kill all processes of the job at once, and wait until they have ended."""
        self._process.kill()
        while running := _marked(self._mark):
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._process.join()


def is_writing(folder: Path) -> bool:
    """Whether there is a file under its temporary name."""
    return any(_is_partial(path.relative_to(folder)) for path in _files(folder))


def visible_files(folder: Path) -> frozenset[Path]:
    """List the files under their final names, relative to the folder."""
    names = (path.relative_to(folder) for path in _files(folder))
    return frozenset(name for name in names if not (_is_partial(name) or any(part[0] == "." for part in name.parts)))


def _is_partial(name: Path) -> bool:
    return name.suffix == ".partial" or any(part.startswith(".export-") for part in name.parts)


def _files(folder: Path) -> list[Path]:
    """List all files in a folder that is changing."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def _marked(mark: str) -> list[int]:
    """List the processes that a job has started; zombies have no environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _run(mark: str, function: Callable[..., None], shared: Path, folder: Path, **arguments: object) -> None:
    """Run a job in this process."""
    os.environ[MARK] = mark
    os.chdir(folder)
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    function(shared, folder, **arguments)
