"""Settings of a grid: what becomes of them on a worker."""

from argparse import ArgumentError

import cloudpickle
import pytest
import torch
from anomalib.data import Folder, MVTec

from anomalib_students.runs.experiment import Experiment
from anomalib_students.runs.storage import Storage
from anomalib_students.runs.workers import Workers


def experiment(class_path="MVTec", cpus=1, model=None, **init_args):
    return Experiment(
        data={"class_path": class_path, "init_args": init_args}, model=model or {}, workers=Workers(cpus=cpus)
    )


class TestData:
    def test_the_category_is_an_argument_of_the_data_module(self):
        datamodule = experiment(root="somewhere").create_datamodule("pill")
        assert isinstance(datamodule, MVTec)
        assert datamodule.category == "pill"
        assert str(datamodule.root) == "somewhere"

    def test_the_category_stands_wherever_the_settings_have_a_place_for_it(self):
        settings = {"name": "{category}", "root": "parts/{category}", "normal_dir": "good", "abnormal_dir": "bad"}
        datamodule = experiment("anomalib.data.Folder", **settings).create_datamodule("bolts")
        assert isinstance(datamodule, Folder)
        assert datamodule.name == "bolts"
        assert str(datamodule.root) == "parts/bolts"

    def test_data_without_categories_are_left_alone(self):
        assert experiment(category="nut").create_datamodule(None).category == "nut"

    @pytest.mark.parametrize(("cpus", "asked", "got"), [(1, 8, 0), (4, 8, 3), (4, 1, 1), (0.5, 8, 0)])
    def test_no_more_processes_load_images_than_the_worker_has_cores(self, cpus, asked, got):
        assert experiment(cpus=cpus, num_workers=asked).create_datamodule("pill").num_workers == got

    @pytest.mark.parametrize("settings", [{"class_path": "NoSuchData"}, {"no_such_argument": 1}])
    def test_settings_that_do_not_fit_are_refused(self, settings):
        with pytest.raises(ArgumentError, match=r"NoSuchData|no_such_argument"):
            experiment(**settings).create_datamodule("pill")


class TestModel:
    def test_its_weights_come_from_the_seed(self):
        settings = experiment(model={"n_students": 2})
        first = settings.create_model(33).model.state_dict()
        torch.rand(5)
        second = settings.create_model(33).model.state_dict()
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_it_has_the_arguments_and_the_patch_size(self):
        model = experiment(model={"n_students": 2, "lr": 0.5}).create_model(65)
        assert model.model.patch_sizes == (65,)
        assert model.lr == 0.5

    def test_arguments_that_do_not_fit_are_refused(self):
        with pytest.raises(ArgumentError, match="n_studens"):
            experiment(model={"n_studens": 2}).create_model(33)


def test_it_travels():
    settings = experiment(root="a")
    assert cloudpickle.loads(cloudpickle.dumps(settings)) == settings


def test_the_folder_of_a_grid():
    assert Experiment(data={}, storage_path="s3://results", name="a").storage == Storage("s3://results/a")
