"""The sample parts: complete, the same everywhere, written once and whole."""

import multiprocessing
import sys
from hashlib import sha256
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_students.data import SampleParts, sample_parts

DEFECTS = ("dent", "faulty_hole", "fibre", "scratch", "stain")
FEW = {("train", "good"): 3, ("test", "good"): 2, **{("test", defect): 1 for defect in DEFECTS}}


@pytest.fixture
def quick(monkeypatch, tmp_path_factory):
    """Fewer images, where the point is the folder."""
    path = tmp_path_factory.mktemp("archive") / "few.zip"
    with ZipFile(sample_parts.ARCHIVE) as archive, ZipFile(path, "w") as few:
        for (split, label), count in FEW.items():
            for index in range(count):
                names = [f"{split}/{label}/{index:03d}.jpg"]
                names += [f"ground_truth/{label}/{index:03d}_mask.png"] if label != "good" else []
                for name in names:
                    few.writestr(name, archive.read(name))
    monkeypatch.setattr(sample_parts, "ARCHIVE", path)


def test_images_are_those_of_the_version():
    # If this fails on purpose, the images have changed: raise VERSION, or caches will keep the old ones.
    assert sample_parts.VERSION == "v2"
    assert sha256(sample_parts.ARCHIVE.read_bytes()).hexdigest().startswith("2d0866f383871258695bae45ed15f19d")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("quick")
def test_folder_is_complete_or_absent_and_a_damaged_one_replaced(tmp_path, monkeypatch):
    data = SampleParts(root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            data.prepare_data()
    assert contents(tmp_path) == {}
    data.prepare_data()
    before = contents(data.folder)
    assert len(before) == 15
    assert {"train/good/002.png", "test/dent/000.png", "ground_truth/dent/000_mask.png"} < set(before)
    (data.folder / "train" / "good" / "001.png").unlink()
    (data.folder / "test" / "dent" / "000.png").write_bytes(b"")
    data.prepare_data()
    assert contents(data.folder) == before
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: pytest.fail("nothing to write"))
        data.prepare_data()


def prepare_and_meet(data, barrier):
    write = sample_parts.write_sample_parts
    sample_parts.write_sample_parts = lambda folder: (write(folder), barrier.wait(timeout=60))
    data.prepare_data()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.usefixtures("quick")
def test_two_processes_at_once_both_succeed(tmp_path):
    data = SampleParts(root=tmp_path)
    (data.folder / "train").mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=prepare_and_meet, args=(data, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sample_parts.is_complete(data.folder)
    assert list(data.root.iterdir()) == [data.folder]


def test_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    datamodule = SampleParts(root=tmp_path / "file")
    with pytest.raises(OSError, match=r"Can't write sample parts to .*file.*--data\.root") as caught:
        datamodule.setup()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("prepare", [True, False])
def test_datamodule_yields_images_and_masks(tmp_path, prepare):
    datamodule = SampleParts(root=tmp_path)
    if prepare:
        datamodule.prepare_data()
    datamodule.setup()
    train = list(datamodule.train_dataloader())
    assert len(train) == 3
    assert isinstance(train[0], ImageBatch)
    assert train[0].image.shape == (1, 3, 256, 256)
    assert train[0].image.dtype == torch.float32
    assert 0.0 <= train[0].image.min() < train[0].image.max() <= 1.0
    (test,) = datamodule.test_dataloader()
    assert test.gt_mask.shape == (7, 256, 256)
    assert test.gt_mask.dtype == torch.bool
    assert test.gt_label.sum() == 5
    assert torch.equal(test.gt_mask.flatten(1).any(dim=1), test.gt_label.bool())
    assert (datamodule.name, datamodule.category) == ("SampleParts", "part")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="XDG is Linux's")
def test_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert SampleParts().root == tmp_path / "anomalib-students" / "sample_parts" / sample_parts.VERSION


def test_the_whole_category(tmp_path):
    datamodule = SampleParts(root=tmp_path, seed=0)
    datamodule.setup()
    assert len(datamodule.train_data) == 60
    assert len(datamodule.test_data) == 60
    assert len(datamodule.val_data) == 60

    folder = tmp_path / sample_parts.VERSION / sample_parts.CATEGORY
    good = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "train" / "good").iterdir())])
    mean, deviation = good.mean(axis=0), good.std(axis=0) + 1.0
    ratios = []
    for defect in DEFECTS:
        masks = [np.asarray(Image.open(path)) for path in sorted((folder / "ground_truth" / defect).iterdir())]
        assert len(masks) == 8
        for index, mask in enumerate(masks):
            assert set(np.unique(mask)) == {0, 255}
            assert 20 <= np.count_nonzero(mask) <= 0.05 * mask.size
            image = np.asarray(Image.open(folder / "test" / defect / f"{index:03d}.png"))
            score = (np.abs(image - mean) / deviation).max(axis=-1)
            ratios.append(score[mask > 0].mean() / score[mask == 0].mean())
    # A pixel's deviation from its mean, the simplest detector, sees the defects but doesn't solve the task.
    assert np.median(ratios) > 1.2
    assert min(ratios) < 1.2
