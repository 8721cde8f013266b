"""Tests of ``anomalib-students inspect`` in processes of their own."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "anomalib_students.line.command", "inspect"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Prüfteile"
    (folder / "day 1").mkdir(parents=True)
    for number in range(6):
        image = np.zeros((20, 30, 3), dtype=np.uint8)
        image[4:8, 3:9] = 40 * number + 20
        Image.fromarray(image).save(folder / "day 1" / f"{number}.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


def run(*args: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, check=False, **options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_a_table_and_pictures(model: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "out" / "results.csv"
    done = run(model, folder, "--output", table, "--masks")
    assert done.returncode == 0
    assert "7 images, 3 anomalous, 1 errors" in done.stderr
    found = {Path(row["path"]).name: row for row in rows(table)}
    assert len(found) == 7
    assert "damaged.png" in found["damaged.png"]["error"]
    assert [found[f"{number}.png"]["label"] for number in range(6)] == ["good"] * 3 + ["anomalous"] * 3
    box = [found["5.png"][name] for name in ("x", "y", "width", "height", "area")]
    assert box == ["3", "4", "6", "4", "24"]
    pictures = table.with_suffix("")
    assert len(list(pictures.rglob("heatmaps/**/*.png"))) == 3
    (mask,) = pictures.rglob("masks/**/5.png.png")
    assert np.asarray(Image.open(mask)).nonzero()[0].size == 24


def test_resume_removes_a_cut_row_and_skips_what_is_there(model: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.jsonl"
    images = sorted(map(str, folder.glob("day 1/*.png")))
    assert run(model, "-", "--output", table, "--heatmaps", "none", input="\n".join(images[:4])).returncode == 0
    whole = table.read_text()
    table.write_text(whole[:-20])
    refused = run(model, folder, "--output", table)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    assert run(model, folder, "--output", table, "--resume").returncode == 0
    results = [json.loads(line) for line in table.read_text().splitlines()]
    assert table.read_text().startswith("".join(whole.splitlines(keepends=True)[:3]))
    assert sorted(result["path"] for result in results) == sorted([*images, str(folder / "damaged.png")])


def test_a_full_disk_keeps_the_rows_that_were_written(model: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    largest = 900

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    done = run(model, folder, "--output", table, "--heatmaps", "none", preexec_fn=limit)
    assert done.returncode == 1
    assert str(table) in done.stderr.splitlines()[-1]
    assert table.read_text().endswith("\n")
    assert all(row["score"] or row["error"] for row in rows(table))
    assert 0 < len(rows(table)) < 6


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_signals_end_the_inspection_of_a_source_that_waits(
    number: int, status: int, model: Path, folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "results.csv"
    process = subprocess.Popen([*COMMAND, model, "-", "--output", table], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    print(folder / "day 1" / "0.png", file=process.stdin, flush=True)
    deadline = time.monotonic() + 60
    while not (table.exists() and rows(table)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == status
    process.stdin.close()
    assert len(rows(table)) == 1


def test_nothing_imports_torch_and_the_memory_is_small(model: Path, folder: Path, tmp_path: Path) -> None:
    code = (
        "import pathlib, re, sys\n"
        "from anomalib_students.line.command import main\n"
        f"status = main(['inspect', {str(model)!r}, {str(folder)!r}, '--output', {str(tmp_path / 'results.csv')!r}])\n"
        "names = {'torch', 'anomalib', 'lightning', 'scipy', 'rich', 'jsonargparse'} & sys.modules.keys()\n"
        "memory = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(status, sorted(names), int(memory) // 1024)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    status, names, megabytes = done.stdout.split()
    assert (status, names) == ("0", "[]")
    assert int(megabytes) < 300


def test_a_folder_is_watched_for_images_that_become_complete(model: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    # Images that are there and those that come have the same form of path, as they have without --watch.
    process = subprocess.Popen([*COMMAND, model, folder.name, "--watch", "--output", table], cwd=tmp_path)

    def wait_for(n_rows: int) -> None:
        deadline = time.monotonic() + 60
        while not (table.exists() and len(rows(table)) >= n_rows) and time.monotonic() < deadline:
            time.sleep(0.1)

    wait_for(7)
    content = (folder / "day 1" / "5.png").read_bytes()
    late = folder / "late.png"
    late.write_bytes(content[:50])
    time.sleep(0.2)
    late.write_bytes(content)
    wait_for(8)
    process.terminate()
    assert process.wait(30) == 143
    assert [row["label"] for row in rows(table) if row["path"] == f"{folder.name}/late.png"] == ["anomalous"]


def test_a_video_is_inspected_frame_by_frame(model: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    video = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in (10, 200, 10):
        writer.write(np.full((48, 64, 3), level, dtype=np.uint8))
    writer.release()
    table = tmp_path / "results.csv"
    assert run(model, video, "--output", table, "--heatmaps", "none").returncode == 0
    assert [row["label"] for row in rows(table)] == ["good", "anomalous", "good"]
    assert rows(table)[1]["path"] == f"{video}#1"


def test_the_packages_command_has_it_without_torch(model: Path, folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom anomalib_students.cli import main\n"
        f"try: main(['inspect', {str(model)!r}, {str(folder)!r}, '--output', {str(tmp_path / 'results.csv')!r}])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0 False\n"
    )
