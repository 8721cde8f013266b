"""MNIST and CIFAR-10 with one normal class, from tiny files in torchvision's formats."""

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from reproduction.one_class import torchvision_data as one_class_torchvision
from reproduction.one_class.torchvision_data import CIFAR10_CLASSES, OneClassCIFAR10, OneClassMNIST


def set_up(datamodule):
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cifar10_root(tmp_path, monkeypatch):
    """A CIFAR-10 of three images in each batch, with the checksums that torchvision asks for."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data, usedforsecurity=False).hexdigest()]

    def write_batch(name, labels):
        return write(name, {"data": random.integers(256, size=(3, 3 * 32 * 32), dtype=np.uint8), "labels": labels})

    names, md5 = write("batches.meta", {"label_names": list(CIFAR10_CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": names, "key": "label_names", "md5": md5})
    training = [write_batch(f"data_batch_{index}", [3, index, 9]) for index in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", training)
    monkeypatch.setattr(CIFAR10, "test_list", [write_batch("test_batch", [3, 4, 5])])
    return tmp_path


@pytest.mark.parametrize("below", ["", "MNIST"])
def test_mnist_has_the_images_of_torchvision(mnist_root, cache_dir, below):
    datamodule = set_up(OneClassMNIST(mnist_root / below, normal_class=7, cache_dir=cache_dir))
    training, test = (MNIST(mnist_root, train=train) for train in (True, False))
    # A tenth of the 60 training images, of all digits, is for validation.
    assert len(datamodule.train_data) == 18
    assert datamodule.val_data.samples["label_index"].value_counts().to_dict() == {1: 4, 0: 2}
    assert len(datamodule.test_data) == len(test)

    for dataset, source in ((datamodule.train_data, training), (datamodule.test_data, test)):
        for item in (dataset[index] for index in range(len(dataset))):
            number = int(item.image_path[-9:-4])
            pixels = source.data[number].float() / 255
            torch.testing.assert_close(item.image.as_subclass(torch.Tensor), pixels.expand(3, 28, 28))
            assert int(item.gt_label) == int(source.targets[number] != 7)
    assert datamodule.task == "classification"


def test_cifar10_has_the_images_of_torchvision(cifar10_root, tmp_path):
    datamodule = set_up(OneClassCIFAR10(cifar10_root, "cat", cache_dir=tmp_path / "cache", val_limit=2))
    test = CIFAR10(cifar10_root, train=False)
    labels = []
    for index in range(3):
        item = datamodule.test_data[index]
        number = int(item.image_path[-9:-4])
        expected = torch.from_numpy(test.data[number]).permute(2, 0, 1) / 255
        torch.testing.assert_close(item.image.as_subclass(torch.Tensor), expected)
        labels.append((test.targets[number], int(item.gt_label)))
    assert sorted(labels) == [(3, 0), (4, 1), (5, 1)]
    # Six of the training images are cats, one of which is for validation.
    assert len(datamodule.train_data) == 5


@pytest.mark.parametrize("normal_class", ["dog", 5, "5"])
def test_classes_are_named_or_numbered(normal_class):
    assert OneClassCIFAR10(normal_class=normal_class).category == "dog"
    assert OneClassMNIST(normal_class=5).category == OneClassMNIST(normal_class="5").category == "5"


def test_images_are_written_once(mnist_root, tmp_path, monkeypatch):
    first = set_up(OneClassMNIST(mnist_root, cache_dir=tmp_path))
    monkeypatch.setattr(one_class_torchvision, "_write_images", lambda *_, **__: pytest.fail("they are there"))
    assert set_up(OneClassMNIST(mnist_root, 1, cache_dir=tmp_path)).image_folder == first.image_folder


def test_images_that_are_missing_are_written_again(mnist_root, tmp_path):
    folder = OneClassMNIST(mnist_root, cache_dir=tmp_path).image_folder
    before = sorted(folder.rglob("*.png"))
    assert len(before) == 78
    before[0].unlink()
    assert OneClassMNIST(mnist_root, cache_dir=tmp_path).image_folder == folder
    assert sorted(folder.rglob("*.png")) == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_other_images_are_kept_apart(mnist_root, tmp_path):
    shutil.copytree(mnist_root / "MNIST", tmp_path / "MNIST")
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    folders = {OneClassMNIST(root, cache_dir=tmp_path / "cache").image_folder for root in (mnist_root, tmp_path)}
    assert len(folders) == 2


def test_the_default_cache_is_the_users(mnist_root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path in OneClassMNIST(mnist_root).image_folder.parents


class TestErrors:
    @pytest.mark.parametrize("create", [OneClassMNIST, OneClassCIFAR10])
    def test_missing_data_under_a_named_root_are_an_error_and_no_download(self, create, tmp_path):
        datamodule = create(tmp_path)
        for call in (datamodule.prepare_data, datamodule.setup):
            with pytest.raises(FileNotFoundError, match=r"is missing in .*--data\.root") as caught:
                call()
            assert str(tmp_path) in str(caught.value)

    def test_the_default_root_is_downloaded_to(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def fail(_):
            msg = "Error downloading:\nno route to host"
            raise RuntimeError(msg)

        monkeypatch.setattr(MNIST, "download", fail)
        with pytest.raises(FileNotFoundError, match="Error downloading: no route to host") as caught:
            OneClassMNIST().prepare_data()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("keep", [0, 3, 500])
    @pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
    def test_damaged_mnist(self, mnist_root, tmp_path, name, keep):
        shutil.copytree(mnist_root / "MNIST", tmp_path / "MNIST")
        path = tmp_path / "MNIST" / "raw" / name
        path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 1)])
        with pytest.raises(ValueError, match=r"MNIST is incomplete or damaged in .*MNIST \(") as caught:
            OneClassMNIST(tmp_path, cache_dir=tmp_path / "cache").prepare_data()
        assert "\n" not in str(caught.value)

    def test_images_and_labels_of_different_number(self, mnist_root, tmp_path):
        shutil.copytree(mnist_root / "MNIST", tmp_path / "MNIST")
        raw = tmp_path / "MNIST" / "raw"
        shutil.copy(raw / "t10k-labels-idx1-ubyte", raw / "train-labels-idx1-ubyte")
        with pytest.raises(ValueError, match="60 images, but 18 labels"):
            OneClassMNIST(tmp_path, cache_dir=tmp_path / "cache").prepare_data()

    def test_damaged_cifar10(self, cifar10_root, tmp_path):
        (cifar10_root / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
        with pytest.raises(ValueError, match="CIFAR10 is incomplete or damaged in"):
            OneClassCIFAR10(cifar10_root, cache_dir=tmp_path / "cache").prepare_data()

    @pytest.mark.parametrize(
        ("create", "normal_class", "choice"), [(OneClassMNIST, 10, "0, 1, 2"), (OneClassCIFAR10, "cow", "airplane, ")]
    )
    def test_unknown_class(self, create, normal_class, choice):
        with pytest.raises(ValueError, match=f"There is no class {normal_class!r}: .* from {choice}"):
            create(normal_class=normal_class)

    def test_cache_that_cannot_be_written(self, mnist_root, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"Can't write the images to .*file.*--data\.cache_dir"):
            OneClassMNIST(mnist_root, cache_dir=tmp_path / "file").prepare_data()
