"""What becomes of the settings on a worker."""

from argparse import ArgumentError

import cloudpickle
import pytest
import torch
from anomalib.data import Folder, MVTec
from jsonargparse import Namespace

pytest.importorskip("ray")

from anomalib_students.cluster.fit import create_datamodule, create_model


def settings(class_path="MVTec", cpus=1, model=None, **init_args):
    data = {"class_path": class_path, "init_args": init_args}
    return cloudpickle.loads(
        cloudpickle.dumps(Namespace(data=data, model=model or {}, cpus_per_worker=cpus, seed=0, workers=1))
    )


def test_the_category_is_an_argument_of_the_data_module():
    datamodule = create_datamodule(settings(root="somewhere"), "pill")
    assert isinstance(datamodule, MVTec)
    assert (datamodule.category, str(datamodule.root)) == ("pill", "somewhere")


def test_the_category_stands_wherever_the_settings_have_a_place_for_it():
    arguments = {"name": "{category}", "root": "parts/{category}", "normal_dir": "good", "abnormal_dir": "bad"}
    datamodule = create_datamodule(settings("anomalib.data.Folder", **arguments), 'bolts, 3/8"')
    assert isinstance(datamodule, Folder)
    assert (datamodule.name, str(datamodule.root)) == ('bolts, 3/8"', 'parts/bolts, 3/8"')


def test_data_without_categories_are_left_as_they_are():
    assert create_datamodule(settings(category="nut"), None).category == "nut"


@pytest.mark.parametrize(("cpus", "asked", "got"), [(1, 8, 0), (4, 8, 3), (4, 1, 1), (0.5, 8, 0)])
def test_no_more_processes_load_images_than_the_worker_has_cores(cpus, asked, got):
    assert create_datamodule(settings(cpus=cpus, num_workers=asked), "pill").num_workers == got


def test_models_have_the_arguments_the_patch_size_and_weights_of_the_seed():
    arguments = settings(model={"architecture": "paper", "n_students": 2, "lr": 0.5})
    first = create_model(arguments, 33, lr=0.25)
    torch.rand(5)
    second = create_model(arguments, 33)
    assert first.model.patch_sizes == (33,)
    assert (first.settings.lr, second.settings.lr) == (0.25, 0.5)
    torch.testing.assert_close(first.model.state_dict(), second.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("data", [{"class_path": "NoSuchData"}, {"no_such_argument": 1}])
def test_settings_that_do_not_fit_are_refused(data):
    with pytest.raises(ArgumentError, match=r"NoSuchData|no_such_argument"):
        create_datamodule(settings(**data), "pill")
    with pytest.raises(ArgumentError, match="n_studens"):
        create_model(settings(model={"n_studens": 2}), 33)
