from pathlib import Path

import pytest
from PIL import Image

from anomalib_students.report.results import find_test_images, name_of
from reproduction.figures.examples import (
    image_files,
    named_images,
    read_examples,
    spread_over_types,
)


def names(dataset):
    return [name_of(path) for path in dataset.samples["image_path"]]


@pytest.fixture
def dataset(datamodule):
    return find_test_images(datamodule)


@pytest.mark.parametrize(
    ("n_images", "expected"),
    [
        (1, ["round/000"]),
        (2, ["round/000", "square/000"]),
        (3, ["round/000", "square/000", "square/001"]),
        (99, ["round/000", "square/000", "square/001"]),
    ],
)
def test_defective_images_are_spread_over_the_types_of_defects(dataset, n_images, expected):
    assert names(spread_over_types(dataset, n_images, only_defective=True)) == expected


def test_good_images_are_a_type_too(dataset):
    assert names(spread_over_types(dataset, 3)) == ["good/000", "round/000", "square/000"]
    assert len(spread_over_types(dataset, None)) == 5


def test_where_nothing_is_defective_good_images_are_chosen(dataset):
    good = dataset.subsample([0, 1])
    assert names(spread_over_types(good, 1, only_defective=True)) == ["good/000"]


def test_images_are_named_by_the_ends_of_their_paths(dataset):
    full = Path(dataset.samples["image_path"].iloc[0])
    assert names(named_images(dataset, [Path("square/001.png"), full])) == ["good/000", "square/001"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("000.png", "3 test images are named 000.png"), ("crack/000.png", "No test image is named crack/000.png")],
)
def test_a_name_of_no_image_or_of_several_is_refused(dataset, name, message):
    with pytest.raises(ValueError, match=rf"{message}.*good, round, square"):
        named_images(dataset, [Path(name)])


def test_test_images_have_their_masks(dataset):
    masks = {name_of(batch.image_path[0]): batch.gt_mask for batch in read_examples(dataset)}
    assert {name for name, mask in masks.items() if mask.any()} == {"round/000", "square/000", "square/001"}
    assert all(mask.shape == (1, 72, 72) for mask in masks.values())


def test_files_and_folders_are_read_in_their_order_without_ground_truth(data_root):
    folder = data_root / "dots" / "test"
    batches = list(read_examples(image_files([folder / "square", folder / "good" / "001.png"]), "Reading"))
    assert [name_of(batch.image_path[0]) for batch in batches] == ["square/000", "square/001", "good/001"]
    assert all(batch.gt_mask is None and batch.gt_label is None for batch in batches)


def test_no_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no images to show"):
        image_files([])
    with pytest.raises(ValueError, match=f"0 images in {tmp_path}"):
        image_files([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        image_files([tmp_path / "gone.png"])


@pytest.mark.parametrize("content", [b"no image", None])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "b.png")
    damaged = tmp_path / "b.png"
    # A cut file begins as an image does.
    damaged.write_bytes(content or damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"Cannot read {damaged}: .* Repair or remove it"):
        list(read_examples(image_files([tmp_path])))


def test_a_test_image_that_cannot_be_read_is_named(dataset, tmp_path):
    samples = dataset.samples.copy()
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    samples.loc[0, "image_path"] = str(damaged)
    dataset.samples = samples
    with pytest.raises(ValueError, match=f"Cannot read {damaged}"):
        list(read_examples(dataset))


def test_an_image_is_named_with_its_folder():
    assert name_of("data/test/crack/000.png") == "crack/000"
    assert name_of(Path("part.png")) == "part"
