"""Files in the storage of a grid are there as a whole or not at all, on a full disk too."""

import errno
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("ray")

from pyarrow.fs import FileSystem

from anomalib_students.cluster.finish import _upload
from anomalib_students.cluster.storage import write_bytes

from .disks import contents, limited_files

LIMIT = 2**16


@pytest.fixture
def storage(tmp_path: Path) -> tuple[FileSystem, Path]:
    folder = tmp_path / "storage"
    folder.mkdir()
    return FileSystem.from_uri(folder.as_uri())[0], folder


def test_a_failing_write_keeps_the_old_file_and_names_it(storage: tuple[FileSystem, Path]) -> None:
    file_system, folder = storage
    write_bytes(file_system, f"{folder}/results.csv", b"old")
    with limited_files(LIMIT), pytest.raises(OSError, match=rf"{folder}/results\.csv cannot be written") as error:
        write_bytes(file_system, f"{folder}/results.csv", bytes(2 * LIMIT))
    assert error.value.errno == errno.EFBIG
    assert contents(folder) == {"results.csv": b"old"}


def test_a_folder_that_cannot_be_written_is_named(storage: tuple[FileSystem, Path]) -> None:
    file_system, folder = storage
    (folder / "category").touch()
    with pytest.raises(OSError, match=f"{folder}/category"):
        write_bytes(file_system, f"{folder}/category/results.json", b"{}")
    assert contents(folder) == {"category": b""}


def test_a_category_whose_model_has_no_room_is_not_finished(storage: tuple[FileSystem, Path], tmp_path: Path) -> None:
    file_system, folder = storage
    finished = tmp_path / "finished"
    (finished / "weights").mkdir(parents=True)
    (finished / "best.png").write_bytes(b"picture")
    (finished / "model.ckpt").write_bytes(bytes(2 * LIMIT))
    (finished / "weights" / "model.xml").write_bytes(b"graph")
    with limited_files(LIMIT), pytest.raises(OSError, match=r"noise/model\.ckpt cannot be written"):
        _upload(finished, {"category": "noise"}, file_system, f"{folder}/noise")
    assert contents(folder) == {"noise/best.png": b"picture"}

    _upload(finished, {"category": "noise"}, file_system, f"{folder}/noise")
    assert contents(folder / "noise").keys() == {"best.png", "model.ckpt", "weights/model.xml", "results.json"}
