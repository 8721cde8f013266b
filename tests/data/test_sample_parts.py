"""The rendered category: the same everywhere, with exact masks, written once and whole."""

import multiprocessing
import sys

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image
from scipy import ndimage

from anomalib_students.data import SampleParts
from anomalib_students.data import sample_parts_cache as cache
from anomalib_students.data import sample_parts_images as images
from anomalib_students.data.sample_parts_defects import DEFECTS
from anomalib_students.data.sample_parts_rendering import render
from anomalib_students.data.sample_parts_surface import build_surface, draw_scene

FEW = {("train", "good"): 3, ("test", "good"): 2, **{("test", defect): 1 for defect in DEFECTS}}
# Mean grey values of a picture's 4 x 4 blocks, and sizes of masks.
REFERENCE_BLOCKS = (
    (92.67, 134.04, 118.02, 83.94),
    (147.05, 158.08, 153.09, 120.52),
    (112.12, 130.14, 154.39, 127.80),
    (76.55, 104.28, 111.54, 75.04),
)
REFERENCE_MASKS = {"dent": 67, "faulty_hole": 284, "fibre": 176, "scratch": 140, "stain": 452}


@pytest.fixture
def quick(monkeypatch):
    """Fewer images that take no time, where the point is the folder."""

    def make_quick_image(split, label, index):
        image = np.random.default_rng((len(split), len(label), index)).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        return images.PartImage(image, None if label == "good" else np.eye(256, dtype=np.uint8) * 255)

    monkeypatch.setattr(cache, "NUM_IMAGES", FEW)
    monkeypatch.setattr(cache, "make_image", make_quick_image)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_image_depends_on_nothing_but_its_name():
    first = images.make_image("test", "scratch", 0)
    images.make_image("train", "good", 1)
    again = images.make_image("test", "scratch", 0)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)


def test_no_two_images_are_the_same():
    rendered = [images.make_image(*name).image for name in (("train", "good", 0), ("train", "good", 1))]
    rendered += [images.make_image("test", "good", 0).image, images.make_image("test", "stain", 0).image]
    for index, image in enumerate(rendered):
        assert all(np.abs(image.astype(float) - other).mean() > 1.0 for other in rendered[:index])


def test_pictures_are_those_of_the_version():
    # If this fails on purpose, the pictures have changed: raise VERSION, or caches will keep the old ones.
    assert cache.VERSION == "v1"
    rendered = {defect: images.make_image("test", defect, 2) for defect in DEFECTS}
    blocks = rendered["stain"].image.reshape(4, 64, 4, 64, 3).mean(axis=(1, 3, 4))
    assert blocks == pytest.approx(np.array(REFERENCE_BLOCKS), abs=0.05)
    sizes = {defect: np.count_nonzero(mask) for defect, (_, mask) in rendered.items()}
    assert sizes == pytest.approx(REFERENCE_MASKS, abs=2)


@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_is_where_the_render_changed(defect):
    scene = draw_scene(np.random.default_rng(1))
    surface = build_surface(scene)
    good = render(surface, scene)
    damaged = render(DEFECTS[defect](surface, scene, np.random.default_rng(2), 0.6), scene)
    mask = images.changed_pixels(good, damaged) > 0
    change = np.abs(damaged - good).max(axis=-1)
    assert change[~mask].max() <= images.MASK_THRESHOLD
    # What isn't changed itself closes a gap between changed pixels.
    changed = change > images.MASK_THRESHOLD
    assert not (mask & ~ndimage.binary_dilation(changed, np.ones((3, 3)))).any()
    assert changed[mask].mean() > 0.85


def test_mask_of_no_change_is_empty_and_reaches_the_border():
    good = np.full((8, 8, 3), 0.5)
    assert not images.changed_pixels(good, good).any()
    damaged = good.copy()
    damaged[0, 2:5, 1] += 0.1
    expected = np.zeros((8, 8), np.uint8)
    expected[0, 2:5] = 255
    assert np.array_equal(images.changed_pixels(good, damaged), expected)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_grow_with_severity_and_all_are_visible(defect):
    scene = draw_scene(np.random.default_rng(3))
    surface = build_surface(scene)
    good = render(surface, scene)
    changes = []
    for severity in (0.0, 1.0):
        damaged = render(DEFECTS[defect](surface, scene, np.random.default_rng(4), severity), scene)
        changes.append(np.abs(damaged - good).sum())
        assert 10 < np.count_nonzero(images.changed_pixels(good, damaged)) < 5000
    assert changes[1] > 2 * changes[0]


def test_two_folders_are_the_same_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "NUM_IMAGES", {("train", "good"): 1, ("test", "fibre"): 1})
    for name in ("one", "other"):
        cache.ensure_sample_parts(tmp_path / name / "part")
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


@pytest.mark.usefixtures("quick")
def test_layout_is_that_of_mvtec(tmp_path):
    cache.ensure_sample_parts(tmp_path / "part")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part"]
    found = {str(path.relative_to(tmp_path / "part").as_posix()) for path in (tmp_path / "part").rglob("*.png")}
    assert found == set(cache.file_names())
    assert {"train/good/002.png", "test/dent/000.png", "ground_truth/dent/000_mask.png"} < found
    for name in found:
        with Image.open(tmp_path / "part" / name) as image:
            assert (image.size, image.mode) == ((256, 256), "L" if name.startswith("ground_truth") else "RGB")


@pytest.mark.usefixtures("quick")
def test_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    make_image = cache.make_image

    def interrupt(split, label, index):
        if (split, label) == ("test", "fibre"):
            raise KeyboardInterrupt
        return make_image(split, label, index)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "make_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.ensure_sample_parts(tmp_path / "part")
    assert list(tmp_path.iterdir()) == []
    cache.ensure_sample_parts(tmp_path / "part")
    assert cache.is_complete(tmp_path / "part")


@pytest.mark.usefixtures("quick")
def test_complete_folder_is_used_and_damaged_one_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "part"
    cache.ensure_sample_parts(folder)
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "make_image", lambda *_: pytest.fail("nothing to render"))
        cache.ensure_sample_parts(folder)
    (folder / "train" / "good" / "001.png").unlink()
    (folder / "test" / "dent" / "000.png").write_bytes(b"")
    cache.ensure_sample_parts(folder)
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def _render_and_meet(folder, barrier):
    write = cache.write_sample_parts

    def write_and_wait(temporary):
        write(temporary)
        barrier.wait(timeout=60)

    cache.write_sample_parts = write_and_wait
    cache.ensure_sample_parts(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.usefixtures("quick")
def test_two_processes_at_once_both_succeed(tmp_path, damaged):
    folder = tmp_path / "part"
    if damaged:
        (folder / "train").mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_render_and_meet, args=(folder, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert cache.is_complete(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    datamodule = SampleParts(root=tmp_path / "file")
    with pytest.raises(OSError, match=r"Can't write the sample parts to .*file.*--data\.root") as caught:
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
    assert SampleParts().root == tmp_path / "anomalib-students" / "sample_parts" / cache.VERSION


@pytest.mark.slow
def test_the_whole_category(tmp_path):
    datamodule = SampleParts(root=tmp_path, seed=0)
    datamodule.setup()
    assert len(datamodule.train_data) == 60
    assert len(datamodule.test_data) == 60
    assert len(datamodule.val_data) == 60

    folder = tmp_path / cache.VERSION / cache.CATEGORY
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
