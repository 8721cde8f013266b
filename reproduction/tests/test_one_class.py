"""One-class classification: its data, its scores, and the command that makes the tables."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.transforms.v2.functional import normalize, resize

from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.weights import save_teacher
from reproduction.__main__ import main
from reproduction.one_class import tables
from reproduction.one_class.data import class_names, read_one_class
from reproduction.one_class.students import PatchStudents, train_students


def test_images_are_those_of_the_data_set(mnist_root):
    read = read_one_class("mnist", mnist_root, "7", patch_size=17)
    assert read.training.shape == (20, 3, 17, 17)
    assert read.test.shape == (18, 3, 17, 17)
    assert read.is_anomalous.sum() == 12
    pixels = np.frombuffer((mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    labels = np.frombuffer((mnist_root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
    grey = torch.from_numpy(pixels.reshape(-1, 1, 28, 28)[labels == 7].copy()) / 255
    images = resize(grey.expand(-1, 3, -1, -1), [17, 17], antialias=True)
    expected = normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = read.test[~read.is_anomalous]
    order, wanted = (values.sum(dim=(1, 2, 3)).argsort() for values in (found, expected))
    torch.testing.assert_close(found[order], expected[wanted])


def test_limits_draw_at_random_in_the_proportions_of_the_labels(mnist_root):
    first, again, other = (read_one_class("mnist", mnist_root, "1", 17, 12, 9, seed) for seed in (0, 0, 1))
    assert (len(first.training), len(first.test), int(first.is_anomalous.sum())) == (12, 9, 6)
    assert torch.equal(first.training, again.training)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.training, other.training)


def test_classes_have_names_and_numbers():
    assert class_names("cifar10", ["0", "cat", "9"]) == ["airplane", "cat", "truck"]
    assert class_names("mnist", None) == [str(digit) for digit in range(10)]
    with pytest.raises(ValueError, match="no class 11 in mnist: its classes are 0, 1, 2"):
        class_names("mnist", ["11"])


@pytest.mark.parametrize("content", [None, b"", b"nothing of the kind"])
def test_data_that_cannot_be_read_are_named(content, mnist_root, tmp_path):
    if content is not None:
        shutil.copytree(mnist_root / "MNIST", tmp_path / "MNIST")
        (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(content)
    error, what = (FileNotFoundError, "missing") if content is None else (ValueError, "damaged")
    with pytest.raises(error, match=rf"MNIST is .*{what} in {tmp_path}/MNIST.* with --root") as raised:
        read_one_class("mnist", tmp_path, "1", 17)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("n_students", [1, 3])
def test_scores_are_those_of_eqs_7_to_11(n_students):
    model = PatchStudents(PatchNetwork(17, descriptor_dim=8), n_students)
    training, held_out, test = (torch.randn(9, 3, 17, 17) for _ in range(3))
    model.normalise_descriptors(training)
    model.normalise_scores(held_out)
    scores = model.score(test).numpy()
    model.double()

    def outputs(network, images):
        return network(images.double()).detach().flatten(1).numpy()

    def errors(images):
        target = outputs(model.teacher, images)
        target = (target - of_teacher.mean(axis=0)) / of_teacher.std(axis=0)
        students = np.stack([outputs(student, images) for student in model.students])
        mean = students.mean(axis=0)
        squares = (students**2).sum(axis=2).mean(axis=0) - (mean**2).sum(axis=1)
        return np.stack([((mean - target) ** 2).sum(axis=1), squares]), students, target

    of_teacher = outputs(model.teacher, training)
    known, found = errors(held_out)[0], errors(test)
    terms = [(found[0][i] - known[i].mean()) / known[i].std() for i in range(min(2, n_students))]
    np.testing.assert_allclose(scores, sum(terms), rtol=1e-3, atol=1e-3)
    loss = model.loss(test.double()).item()
    assert loss == pytest.approx(((found[1] - found[2]) ** 2).sum(axis=2).mean(axis=1).sum(), rel=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_students_learn_from_all_images_but_those_of_the_scores(bfloat16, monkeypatch):
    images, seen = torch.randn(20, 3, 17, 17), []
    loss = PatchStudents.loss
    monkeypatch.setattr(PatchStudents, "loss", lambda self, batch: seen.append(batch) or loss(self, batch))
    teacher = PatchNetwork(17, descriptor_dim=8)
    before = [parameter.clone() for parameter in teacher.parameters()]
    model = train_students(teacher, images, 2, epochs=2, batch_size=7, lr=1e-3, decays=True, bfloat16=bfloat16)
    assert [len(batch) for batch in seen] == [7, 7, 4] * 2
    for epoch in (seen[:3], seen[3:]):
        assert {tuple(image) for image in torch.cat(epoch).flatten(1).tolist()} == {
            tuple(image) for image in images[2:].flatten(1).tolist()
        }
    assert all(torch.equal(old, new) for old, new in zip(before, teacher.parameters(), strict=True))
    torch.testing.assert_close(model.mean, model.errors(images[:2]).mean(dim=1))


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="at least two images"):
        train_students(PatchNetwork(17, 8), torch.randn(1, 3, 17, 17), 2, epochs=1, batch_size=1, lr=1e-3)


@pytest.fixture
def run(mnist_root, tmp_path, monkeypatch):
    """Run the command on small data, and return its table."""
    monkeypatch.setattr(tables, "train_students", train := CountedTraining())
    small = {"data": "mnist", "root": mnist_root, "results": tmp_path / "out", "classes": "[0,7]", "n_students": 2}
    small |= {"methods": "[ours,nearest_neighbour]", "epochs": 1, "batch_size": 4, "train_limit": 12, "test_limit": 9}

    def run(**settings):
        main(["one-class", *(f"--{name}={value}" for name, value in {**small, **settings}.items())])
        return pd.read_csv(tmp_path / "out" / "results.csv", dtype={"row": str})

    run.train = train
    return run


class CountedTraining(list):
    def __call__(self, teacher, images, **settings):
        self.append(settings)
        return train_students(teacher, images, **settings)


def test_from_data_to_tables(run, mnist_root, tmp_path, capsys):
    teacher = tmp_path / "teacher.safetensors"
    save_teacher(PatchNetwork(33), teacher, {"lambda_k": "0.0", "lambda_m": "1.0", "lambda_c": "1.0"})
    table = run(teachers=f"[{teacher}]")
    names = table["table"].str.partition(":")[0]
    columns = {"ours", "1-NN", "ours, L_m L_c"}
    assert set(zip(names, table["row"], table["column"], strict=True)) == {
        *(("Table 6", row, column) for row in ("0", "7", "mean") for column in columns),
        *(("Table 2", column, "MNIST") for column in columns),
    }
    assert table.set_index(["row", "column"])["paper"]["7", "ours, L_m L_c"] == 0.995
    assert (
        run.train
        == [{"n_students": 2, "epochs": 1, "batch_size": 4, "lr": 1e-4, "decays": False, "bfloat16": False}] * 4
    )
    # The same metric as scikit-learn's, from the students that were kept.
    state = torch.load(tmp_path / "out" / "7" / "ours" / "students.pt", weights_only=True)
    assert state["mean"].shape == (2,)
    assert "results.md" in capsys.readouterr().out.replace("\n", "")


def test_what_is_done_is_not_done_again(run, tmp_path):
    with pytest.raises(SystemExit, match="2 of 4 cells failed: 3, ours; 3, nearest_neighbour"):
        run(classes="[0,3]")
    report = (tmp_path / "out" / "results.md").read_text()
    assert "- 3, ours: Training needs at least two images" in report
    (result,) = (tmp_path / "out").glob("*/ours/result.json")
    before, n_trained = result.read_text(), len(run.train)
    table = run(classes="[7]", methods="[nearest_neighbour]")
    assert set(table["row"]) >= {"0", "7"}
    assert set(run(classes="[0]")["row"]) >= {"0", "7"}
    assert (result.read_text(), len(run.train)) == (before, n_trained)
    assert json.loads(before)["settings"]["lr"] == 1e-4
    with pytest.raises(SystemExit, match=r"had other settings: lr=0\.0001\. Choose another folder with --results"):
        run(classes="[0]", lr=1e-3)
