"""Files of a job on a disk or in a bucket: there as a whole or not at all; and when a job may be resumed."""

import errno

import pytest

pytest.importorskip("pyarrow")

from anomalib_students.cluster.storage import Storage
from tests.reliability.disks import contents, limited_files

LIMIT = 2**16


@pytest.fixture(params=["path", "URI"])
def storage(tmp_path, request):
    """A folder on a disk, and the same as pyarrow sees it, as it does a bucket."""
    return Storage(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


def test_what_is_written_is_read_and_nothing_else_is_left(storage, tmp_path):
    assert storage.read_json("folder/a.json") is None
    storage.write("folder/a.json", b"older, and longer than what replaces it")
    storage.write_json("folder/a.json", {"a": [1, None], "path": tmp_path})
    assert storage.read_json("folder/a.json") == {"a": [1, None], "path": str(tmp_path)}
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["a.json"]
    assert storage.file_system()[1] == str(tmp_path)


def test_a_failing_write_keeps_the_old_file_and_names_it(storage, tmp_path):
    storage.write("results.csv", b"old")
    with limited_files(LIMIT), pytest.raises(OSError, match=rf"{tmp_path}/results\.csv") as error:
        storage.write("results.csv", bytes(2 * LIMIT))
    assert error.value.errno == errno.EFBIG
    assert contents(tmp_path) == {"results.csv": b"old"}


def test_a_folder_that_cannot_be_written_is_named(storage, tmp_path):
    (tmp_path / "category").touch()
    with pytest.raises(OSError, match=f"{tmp_path}/category"):
        storage.write("category/results.json", b"{}")
    assert contents(tmp_path) == {"category": b""}


def test_a_job_is_resumed_with_its_settings_only(storage, tmp_path):
    for _ in range(2):
        storage.begin({"seed": 0, "limit": None, "images": tmp_path})
    with pytest.raises(ValueError, match=rf"The job in {storage.location} has seed=0: resume with that"):
        storage.begin({"seed": 1, "limit": None, "images": tmp_path})
    assert storage.read_json("settings.json") == {"seed": 0, "limit": None, "images": str(tmp_path)}


def test_teachers_need_a_folder():
    assert str(Storage("/shared/results").folder) == "/shared/results"
    with pytest.raises(ValueError, match="a folder that all nodes share, not s3://bucket/results"):
        _ = Storage("s3://bucket/results").folder
