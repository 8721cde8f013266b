"""Images in folders of classes, one of which is normal."""

import copy

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_students.data.mvtec import draw_samples
from reproduction.one_class import dataset as one_class_dataset
from reproduction.one_class.dataset import list_samples
from reproduction.one_class.folder import OneClassImageFolder

CLASSES = ("daisy", "rose", "tulip")


def write_images(folder, count, mode="RGB"):
    """``count`` images, whose pixels tell their number."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (9, 7), (number, 2 * number, 0)).convert(mode).save(folder / f"{number}.png")


@pytest.fixture
def flowers(tmp_path):
    """30 training and 8 test images of each of three classes."""
    for name in CLASSES:
        write_images(tmp_path / "train" / name, 30)
        write_images(tmp_path / "test" / name, 8)
    return tmp_path


def set_up(root, normal_class="rose", **arguments):
    datamodule = OneClassImageFolder(root, normal_class, **arguments)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def paths(dataset):
    return set(dataset.samples["image_path"])


def test_trains_on_the_normal_class_alone_and_tests_on_all(flowers):
    datamodule = set_up(flowers)
    assert {path.rsplit("/", 2)[-2] for path in paths(datamodule.train_data)} == {"rose"}
    assert paths(datamodule.test_data) == {str(path) for path in (flowers / "test").rglob("*.png")}
    labels = datamodule.test_data.samples.groupby("label")["label_index"].unique()
    assert {name: list(label) for name, label in labels.items()} == {"daisy": [1], "rose": [0], "tulip": [1]}


def test_validates_on_training_images_that_are_not_trained_on(flowers):
    datamodule = set_up(flowers)
    validation = paths(datamodule.val_data)
    assert len(validation) == 9
    assert validation <= {str(path) for path in (flowers / "train").rglob("*.png")}
    normal = {str(path) for path in (flowers / "train" / "rose").iterdir()}
    assert paths(datamodule.train_data) == normal - validation
    assert len(validation & normal) == 3


def test_limits_draw_the_same_images_from_the_same_seed(flowers):
    limits = {"train_limit": 5, "test_limit": 12, "val_limit": 6}
    first, second, third = (set_up(flowers, **limits, seed=seed) for seed in (1, 1, 2))
    for name, count in (("train_data", 5), ("test_data", 12), ("val_data", 6)):
        assert len(getattr(first, name)) == count
        assert paths(getattr(first, name)) == paths(getattr(second, name))
        assert paths(getattr(first, name)) != paths(getattr(third, name))
    assert (first.test_data.samples["label_index"] == 0).sum() == 4


@pytest.mark.parametrize("n_samples", [2, 3, 10, 33, 89, 90, 500])
def test_samples_are_drawn_in_the_proportions_of_their_labels(flowers, n_samples):
    samples = list_samples(flowers / "train", "tulip")
    drawn = draw_samples(samples, n_samples, seed=0)
    assert len(drawn) == min(n_samples, 90)
    assert drawn.index.is_unique
    assert (drawn["label_index"] == 0).sum() == max(1, round(min(n_samples, 90) / 3))


def test_items_are_rgb_with_label_and_path(flowers):
    write_images(flowers / "test" / "grey", 3, mode="L")
    datamodule = set_up(flowers)
    for dataset in (datamodule.train_data, datamodule.val_data, datamodule.test_data):
        for item in (dataset[index] for index in range(len(dataset))):
            expected = np.array(Image.open(item.image_path).convert("RGB")).transpose(2, 0, 1) / 255
            np.testing.assert_allclose(item.image.numpy(), expected, rtol=1e-6)
            assert item.image.dtype == torch.float32
            assert bool(item.gt_label) == ("rose" not in item.image_path)
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape == (27, 3, 7, 9)
    assert len(batch.image_path) == 27


@pytest.mark.parametrize(("memory", "kept"), [(2**20, 27), (5 * 3 * 7 * 9, 5), (0, 0)])
def test_images_are_decoded_once_as_long_as_there_is_memory(flowers, memory, kept, monkeypatch):
    monkeypatch.setattr(one_class_dataset, "MEMORY", memory)
    dataset = set_up(flowers).train_data
    before = [dataset[index].image for index in range(len(dataset))]
    decoded = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda path: decoded.append(path) or open_image(path))
    after = [dataset[index].image for index in range(len(dataset))]
    assert len(decoded) == 27 - kept
    torch.testing.assert_close(after, before)


def test_augmentations_leave_the_kept_images_alone(flowers):
    dataset = set_up(flowers).train_data
    before = dataset[3].image.clone()
    dataset.augmentations = Resize((4, 4))
    assert dataset[3].image.shape == (3, 4, 4)
    dataset.augmentations = None
    dataset[3].image.zero_()
    assert torch.equal(dataset[3].image, before)


def test_subsets_and_copies_read_their_own_images(flowers):
    dataset = set_up(flowers).train_data
    subset = copy.deepcopy(dataset).subsample([4, 20])
    assert [subset[index].image_path for index in range(2)] == [dataset[index].image_path for index in (4, 20)]
    assert torch.equal(subset[1].image, dataset[20].image)


def test_a_training_set_of_the_normal_class_alone_is_validated_on_the_test_images(flowers, caplog):
    for name in ("daisy", "tulip"):
        for path in (flowers / "train" / name).iterdir():
            path.unlink()
    datamodule = set_up(flowers)
    assert len(datamodule.train_data) == 30
    assert paths(datamodule.val_data) == paths(datamodule.test_data)
    assert "sets its threshold on the test images" in caplog.text


@pytest.mark.parametrize(("mode", "validation", "test"), [("same_as_test", 24, 24), ("from_test", 12, 12)])
def test_anomalibs_other_modes_of_validation_work(flowers, mode, validation, test):
    datamodule = set_up(flowers, val_split_mode=mode, val_split_ratio=0.5)
    assert (len(datamodule.train_data), len(datamodule.val_data), len(datamodule.test_data)) == (30, validation, test)


def test_is_built_from_a_config_by_its_name(flowers, tmp_path):
    config = tmp_path / "data.yaml"
    # A class named by a number, which YAML takes for one.
    config.write_text(
        f"class_path: OneClassImageFolder\ninit_args:\n  root: {flowers}\n  normal_class: 7\n  test_limit: 4"
    )
    datamodule = AnomalibDataModule.from_config(config)
    assert type(datamodule) is OneClassImageFolder
    assert (datamodule.category, datamodule.test_limit) == ("7", 4)


class TestErrors:
    def test_missing_folder(self, tmp_path):
        datamodule = OneClassImageFolder(tmp_path / "gone", "rose")
        for call in (datamodule.prepare_data, datamodule.setup):
            with pytest.raises(
                FileNotFoundError, match=r"no folders of classes in .*gone.train.*--data\.root.*Expected"
            ):
                call()

    def test_folder_without_a_test_set(self, tmp_path):
        write_images(tmp_path / "train" / "rose", 1)
        with pytest.raises(FileNotFoundError, match=r"no folders of classes in .*test: .*test/<class>/<image>"):
            set_up(tmp_path)

    def test_unknown_class(self, flowers):
        with pytest.raises(ValueError, match=r"no images of the class 'lily' in .*train: .* from daisy, rose, tulip"):
            set_up(flowers, "lily")

    def test_class_without_test_images(self, flowers):
        write_images(flowers / "train" / "lily", 3)
        with pytest.raises(ValueError, match=r"no images of the class 'lily' in .*test: "):
            set_up(flowers, "lily")

    def test_test_set_without_anomalies(self, tmp_path):
        write_images(tmp_path / "train" / "rose", 3)
        write_images(tmp_path / "test" / "rose", 3)
        with pytest.raises(ValueError, match=r"images of the class 'rose' alone in .*test"):
            set_up(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
    def test_damaged_image(self, flowers, content):
        path = flowers / "test" / "daisy" / "0.png"
        path.write_bytes(path.read_bytes()[:45] if content is None else content)
        datamodule = set_up(flowers)
        with pytest.raises(ValueError, match=r"Cannot read .*daisy.0\.png as an image: ") as caught:
            list(datamodule.test_dataloader())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["train_limit", "test_limit", "val_limit"])
    def test_limit_out_of_range(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            OneClassImageFolder("flowers", "rose", **{name: 0})
