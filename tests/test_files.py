import errno
import os

import pytest

from anomalib_students import files
from anomalib_students.files import replace_file


def test_a_file_is_written_in_a_new_folder_and_replaced_without_a_rest(tmp_path):
    replace_file(tmp_path / "a" / "b", b"old and longer")
    replace_file(tmp_path / "a" / "b", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a").iterdir()] == [("b", b"new")]


def test_on_a_full_disk_the_older_file_stays_and_the_error_names_it(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match=rf"No space left on device: .*{tmp_path}/a"):
        replace_file(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError, match="a"):
        replace_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
