"""Paths by which configurations name our models."""

import pytest
from anomalib.models import AnomalibModule, get_model
from jsonargparse import ArgumentParser

from anomalib_students import UninformedStudents


def test_get_model_takes_every_form_of_the_name():
    class_paths = (
        "UninformedStudents",
        "anomalib_students.UninformedStudents",
        "anomalib.models.UninformedStudents",
        "anomalib.models.image.UninformedStudents",
    )
    for model in ("uninformed_students", "UninformedStudents", *({"class_path": path} for path in class_paths)):
        assert type(get_model(model)) is UninformedStudents


@pytest.mark.parametrize("package", ["", "anomalib.models.", "anomalib_students."])
def test_configurations_name_models_so_that_anomalib_takes_them(package):
    """As anomalib's ``lightning_inference.py`` and its benchmark hand them to ``get_model``."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibModule, "model", fail_untyped=False)
    settings = parser.parse_args(["--model", f"{package}UninformedStudents"])
    # jsonargparse before 4.41 writes a path that it was given as it writes those that it finds itself.
    assert settings.model.class_path in {
        f"{package or 'anomalib.models.'}UninformedStudents",
        "anomalib.models.UninformedStudents",
    }
    assert type(get_model(settings.model)) is UninformedStudents
    assert type(parser.instantiate_classes(settings).model) is UninformedStudents
