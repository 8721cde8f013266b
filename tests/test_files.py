import errno
import os

import pytest
import torch

from anomalib_students import files
from anomalib_students.files import AtomicCheckpointIO, replace_file


@pytest.fixture
def full_disk(monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)


def test_a_file_is_written_in_a_new_folder(tmp_path):
    replace_file(tmp_path / "a" / "b", b"content")
    assert (tmp_path / "a" / "b").read_bytes() == b"content"


def test_an_older_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "a").write_bytes(b"old and longer")
    replace_file(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_the_older_file_stays_and_the_error_names_it(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match=rf"No space left on device: .*{tmp_path}/a"):
        replace_file(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError, match="a"):
        replace_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


class TestAtomicCheckpointIO:
    checkpoint = {"weights": torch.arange(4), "step": 3}  # noqa: RUF012

    def test_what_is_saved_is_loaded(self, tmp_path):
        AtomicCheckpointIO().save_checkpoint(self.checkpoint, tmp_path / "last.ckpt")
        loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
        assert loaded["step"] == 3
        assert torch.equal(loaded["weights"], self.checkpoint["weights"])

    @pytest.mark.usefixtures("full_disk")
    def test_on_a_full_disk_the_older_checkpoint_stays(self, tmp_path, monkeypatch):
        with monkeypatch.context() as context:
            context.setattr(files.os, "fsync", lambda _: None)
            AtomicCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
        with pytest.raises(OSError, match="No space left"):
            AtomicCheckpointIO().save_checkpoint(self.checkpoint, tmp_path / "last.ckpt")
        assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt") == {"step": 2}

    @pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
    def test_a_damaged_checkpoint_is_told(self, kept, tmp_path):
        path = tmp_path / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint(self.checkpoint, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(RuntimeError, match=r"The checkpoint .*last\.ckpt is damaged"):
            AtomicCheckpointIO().load_checkpoint(path)
