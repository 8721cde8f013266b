"""What a trial of a sweep is judged on."""

from dataclasses import replace

import pytest

from anomalib_students.paper.sweep_trial import with_synthetic_validation
from anomalib_students.runs.experiment import Experiment
from tests.integration.conftest import write_category


@pytest.fixture
def experiment(tmp_path):
    """Data whose own validation images are the test images, and say so."""
    write_category(tmp_path / "dots", n_train=10)
    return Experiment(
        data={"class_path": "MVTec", "init_args": {"root": str(tmp_path), "val_split_mode": "same_as_test"}}
    )


def test_no_test_image_and_no_training_image_is_among_the_validation_images(experiment, tmp_path, monkeypatch):
    # anomalib writes the synthetic images under the working directory.
    monkeypatch.chdir(tmp_path)
    datamodule = replace(experiment, data=with_synthetic_validation(experiment)).create_datamodule("dots")
    datamodule.prepare_data()
    datamodule.setup()
    names = {part: data.samples.image_path for part, data in vars(datamodule).items() if part.endswith("_data")}
    training, validation, test = (set(names[part]) for part in ("train_data", "val_data", "test_data"))
    assert len(training) == 7
    assert len(validation) == 3
    assert len(test) == 4
    assert not validation & test
    assert not validation & training
    assert datamodule.val_data.samples.label_index.sum() == 1


def test_each_trial_holds_out_the_same_images(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (
        replace(experiment, data=with_synthetic_validation(experiment)).create_datamodule("dots") for _ in range(2)
    )
    for datamodule in (first, second):
        datamodule.prepare_data()
        datamodule.setup()
    assert list(first.train_data.samples.image_path) == list(second.train_data.samples.image_path)
