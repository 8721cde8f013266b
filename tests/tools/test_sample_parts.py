"""The renderer of the sample parts: the same everywhere, with exact masks."""

import io
from zipfile import ZipFile

import numpy as np
import pytest
import render_sample_parts
import sample_parts_images as images
from PIL import Image
from sample_parts_defects import DEFECTS
from sample_parts_rendering import render
from sample_parts_surface import build_surface, draw_scene
from scipy import ndimage


def read(archive, name):
    return np.asarray(Image.open(io.BytesIO(archive.read(name))))


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


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_package_has_what_is_rendered(defect):
    rendered = images.make_image("test", defect, 2)
    with ZipFile(render_sample_parts.ARCHIVE) as archive:
        difference = read(archive, f"test/{defect}/002.jpg").astype(float) - rendered.image
        mask = read(archive, f"ground_truth/{defect}/002_mask.png")
    # Compression changes pixels by less than the noise of the sensor, and no region by as much as a grey value.
    assert np.abs(difference).mean() < 2.5
    assert np.abs(difference.reshape(8, 32, 8, 32, 3).mean(axis=(1, 3, 4))).max() < 0.5
    # Floating-point sums may differ from machine to machine.
    assert np.count_nonzero(mask != rendered.mask) <= 2


def test_two_archives_are_the_same_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(render_sample_parts, "NUM_IMAGES", {("train", "good"): 1, ("test", "fibre"): 1})
    for name in ("one.zip", "other.zip"):
        render_sample_parts.pack(tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    names = ["train/good/000.jpg", "test/fibre/000.jpg", "ground_truth/fibre/000_mask.png"]
    assert ZipFile(tmp_path / "one.zip").namelist() == names


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
