"""Files in the storage of a job are there as a whole or not at all, on a full disk too."""

import errno
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("ray")

from anomalib_students.runs.finish import _upload
from anomalib_students.runs.jobs import Compute, Job, run_job
from anomalib_students.runs.storage import Storage

from .disks import contents, limited_files

LIMIT = 2**16


@pytest.fixture(params=["path", "URI"])
def storage(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Storage, Path]:
    folder = tmp_path / "storage"
    folder.mkdir()
    return Storage(str(folder) if request.param == "path" else folder.as_uri()), folder


def test_a_failing_write_keeps_the_old_file_and_names_it(storage: tuple[Storage, Path]) -> None:
    files, folder = storage
    files.write("results.csv", b"old")
    with limited_files(LIMIT), pytest.raises(OSError, match=rf"{folder}/results\.csv") as error:
        files.write("results.csv", bytes(2 * LIMIT))
    assert error.value.errno == errno.EFBIG
    assert contents(folder) == {"results.csv": b"old"}


def test_a_folder_that_cannot_be_written_is_named(storage: tuple[Storage, Path]) -> None:
    files, folder = storage
    (folder / "category").touch()
    with pytest.raises(OSError, match=f"{folder}/category"):
        files.write("category/results.json", b"{}")
    assert contents(folder) == {"category": b""}


def test_a_category_whose_model_has_no_room_is_not_finished(storage: tuple[Storage, Path], tmp_path: Path) -> None:
    files, folder = storage
    finished = tmp_path / "finished"
    (finished / "weights").mkdir(parents=True)
    (finished / "best.png").write_bytes(b"picture")
    (finished / "model.ckpt").write_bytes(bytes(2 * LIMIT))
    (finished / "weights" / "model.xml").write_bytes(b"graph")

    def finish(files: Storage, *_: object) -> dict[str, str]:
        _upload(finished, files, "noise")
        return {"category": "noise"}

    job = Job("noise", "noise", finish)
    with limited_files(LIMIT):
        reason = run_job(job, files, Compute(), print).reason
    assert f"{folder}/noise/model.ckpt" in (reason or "")
    assert contents(folder) == {"noise/best.png": b"picture"}

    assert run_job(job, files, Compute(), print).reason is None
    assert contents(folder / "noise").keys() == {"best.png", "model.ckpt", "weights/model.xml", "result.json"}
