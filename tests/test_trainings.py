"""Checkpoints on a full disk, and damaged ones."""

import errno
import os

import pytest
import torch

from anomalib_students import files
from anomalib_students.trainings import AtomicCheckpointIO

CHECKPOINT = {"weights": torch.arange(4), "step": 3}


def test_what_is_saved_is_loaded(tmp_path):
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], CHECKPOINT["weights"])


def test_on_a_full_disk_the_older_checkpoint_stays(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    AtomicCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt") == {"step": 2}


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_damaged_checkpoint_is_told(kept, tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(RuntimeError, match=r"The checkpoint .*last\.ckpt is damaged"):
        AtomicCheckpointIO().load_checkpoint(path)
