"""A checkpoint is written whole or not at all, and one that is damaged is named."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from anomalib.models import UninformedStudents
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .disks import contents, limited_files
from .small import small_data, small_engine, small_model


@pytest.fixture
def temporary_files_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the folder for temporary files on another file system, and every copy from there fail halfway."""
    rename = os.rename

    def rename_in_folder(source, target, **arguments) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **arguments)

    def copy_half(source, target, **_) -> None:
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "rename", rename_in_folder)
    monkeypatch.setattr(shutil, "copyfile", copy_half)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small model."""
    folder = tmp_path_factory.mktemp("trained")
    engine = small_engine(folder)
    engine.fit(small_model(), datamodule=small_data(folder / "data"))
    return Path(engine.best_model_path)


@pytest.mark.usefixtures("temporary_files_elsewhere")
def test_training_writes_checkpoints_without_a_copy_that_can_be_cut_short(tmp_path: Path) -> None:
    engine = small_engine(tmp_path)
    engine.fit(small_model(), datamodule=small_data(tmp_path / "data"))
    assert torch.load(engine.best_model_path, weights_only=False)["global_step"] == 5


class OwnIO(TorchCheckpointIO):
    """A user's own way of writing checkpoints."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        super().save_checkpoint({**checkpoint, "own": True}, path, storage_options)


def test_the_way_of_writing_that_a_user_names_is_kept(tmp_path: Path) -> None:
    engine = small_engine(tmp_path, plugins=[OwnIO()])
    engine.fit(small_model(), datamodule=small_data(tmp_path / "data"))
    assert torch.load(engine.best_model_path, weights_only=False)["own"]


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(kept: float, trained: Path, tmp_path: Path) -> None:
    content = trained.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(RuntimeError, match=r"The checkpoint .*cut\.ckpt is damaged"):
        small_engine(tmp_path).fit(small_model(), datamodule=small_data(tmp_path / "data"), ckpt_path=path)
    with pytest.raises(RuntimeError, match=r"The checkpoint .*cut\.ckpt is damaged"):
        UninformedStudents.load_from_checkpoint(path)


def test_a_whole_checkpoint_is_not_called_damaged(trained: Path) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        UninformedStudents.load_from_checkpoint(trained, n_students=2)


def test_a_full_disk_leaves_the_checkpoint_before_and_is_said(tmp_path: Path) -> None:
    datamodule = small_data(tmp_path / "data")
    engine = small_engine(tmp_path / "results", max_epochs=1)
    engine.fit(small_model(), datamodule=datamodule)
    before = contents(tmp_path / "results")
    last = Path(engine.best_model_path)
    resumed = small_engine(tmp_path / "results", max_epochs=2)
    with limited_files(last.stat().st_size // 2), pytest.raises(OSError, match=r"model\.ckpt") as error:
        resumed.fit(small_model(), datamodule=datamodule, ckpt_path=last)
    assert error.value.errno == errno.EFBIG
    assert contents(tmp_path / "results") == before


def test_a_results_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        small_engine(tmp_path / "file" / "results").fit(small_model(), datamodule=small_data(tmp_path / "data"))
