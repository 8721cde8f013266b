"""An export that is cut short leaves the one before, and says why."""

import errno
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from anomalib.models.components.base.export_mixin import ExportMixin
from openvino import opset8

from anomalib_students.export.openvino import ExactExport

from .disks import contents, limited_files

SIZE = 300_000
"""Bytes of the weights of an export, more than the least limit of a file's size."""


class Exporting(ExportMixin):
    """A model whose conversion takes no time; OpenVINO writes it."""

    def to_openvino(self, export_root, model_file_name="model"):
        folder = export_root / "weights" / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        images = opset8.parameter([1, 1], np.float32)
        total = opset8.add(images, opset8.constant(np.full((1, SIZE // 4), self.value, np.float32)))
        openvino.save_model(
            openvino.Model([total], [images]), folder / f"{model_file_name}.xml", compress_to_fp16=False
        )
        return folder / f"{model_file_name}.xml"


class Model(ExactExport, Exporting):
    def __init__(self, value=1.0):
        super().__init__()
        self.value = value
        self.weights = torch.full((SIZE // 4,), value)


FORMATS = {"openvino": Model.to_openvino, "torch": Model.to_torch}


@pytest.fixture
def usage(monkeypatch):
    """Have a number of bytes free on the disk."""

    def usage(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - free, free))

    return usage


@pytest.mark.parametrize("export", FORMATS.values(), ids=FORMATS)
def test_a_failing_write_keeps_the_old_export_and_leaves_nothing_else(export, tmp_path):
    export(Model(), tmp_path)
    before = contents(tmp_path)
    with limited_files(SIZE // 3), pytest.raises(OSError, match="older export is as it was") as error:
        export(Model(2.0), tmp_path)
    assert error.value.errno == errno.EIO
    assert contents(tmp_path) == before


@pytest.mark.parametrize("export", FORMATS.values(), ids=FORMATS)
def test_a_full_disk_is_called_so(export, tmp_path, usage):
    usage(free=5000)
    with limited_files(SIZE // 3), pytest.raises(OSError, match=rf"No space left on device.*{tmp_path}") as error:
        export(Model(), tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("export", FORMATS.values(), ids=FORMATS)
def test_until_it_is_written_the_old_export_is_whole(export, tmp_path, monkeypatch):
    """What a kill in the middle of the writing would leave."""
    export(Model(), tmp_path)
    before = contents(tmp_path)
    during = []

    def look(save):
        def saved(*args, **kwargs):
            save(*args, **kwargs)
            during.append({name: content for name, content in contents(tmp_path).items() if ".export-" not in name})

        return saved

    monkeypatch.setattr(openvino, "save_model", look(openvino.save_model))
    monkeypatch.setattr(torch, "save", look(torch.save))
    export(Model(2.0), tmp_path)
    assert during == [before]
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after != before


EXPORT = """
import sys
from pathlib import Path
import numpy as np
import openvino
from openvino import opset8
from anomalib_students.export.openvino import _export_whole as export_whole

def export(export_root):
    folder = export_root / "weights" / "openvino"
    folder.mkdir(parents=True)
    images = opset8.parameter([1, 1], np.float32)
    total = opset8.add(images, opset8.constant(np.ones((1, 100_000_000), np.float32)))
    openvino.save_model(openvino.Model([total], [images]), folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"

export_whole(export, export_root=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_leaves_the_old_export(tmp_path):
    Model().to_openvino(tmp_path)
    before = contents(tmp_path)
    command = [sys.executable, "-c", EXPORT, tmp_path]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) as process:
        while not (written := [path for path in tmp_path.rglob(".export-*/**/*.bin") if path.stat().st_size]):
            assert process.poll() is None, process.communicate()[1].decode()[-5000:]
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert written[0].exists()
    assert {name: content for name, content in contents(tmp_path).items() if ".export-" not in name} == before

    Model(3.0).to_openvino(tmp_path)
    assert (tmp_path / "weights" / "openvino" / "model.bin").read_bytes()[:4] == np.float32(3.0).tobytes()


def test_exports_of_other_names_are_left(tmp_path):
    Model().to_openvino(tmp_path, model_file_name="first")
    before = contents(tmp_path)
    path = Model(2.0).to_openvino(tmp_path, model_file_name="second")
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == 4
    assert openvino.Core().read_model(path).get_ops()


def test_an_error_of_another_kind_is_itself(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("unknown operation")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(RuntimeError, match="unknown operation"):
        Model().to_openvino(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        Model().to_torch(tmp_path / "file")
