"""The settings of the Ray jobs that come with the package."""

import runpy
from argparse import ArgumentError

import pytest
from job_arguments import parse

from .conftest import JOBS

CONFIGS = JOBS.parent / "configs"


@pytest.mark.parametrize(
    ("job", "config", "data"),
    [
        ("train.py", "ray_mvtec", "MVTec"),
        ("train.py", "ray_sample_parts", "SampleParts"),
        ("sweep.py", "ray_sweep_sample_parts", "SampleParts"),
    ],
)
def test_they_are_valid(job, config, data):
    parser = runpy.run_path(str(JOBS / job))["create_parser"]()
    settings = parse(parser, ["-c", str(CONFIGS / f"{config}.yaml")], without_data=CONFIGS / "none.yaml")
    assert settings.data["class_path"].endswith(data)


@pytest.mark.parametrize("job", ["train.py", "sweep.py"])
def test_without_data_the_settings_of_the_sample_parts_are_taken_and_options_replace_them(job):
    scope = runpy.run_path(str(JOBS / job))
    settings = parse(scope["create_parser"](), ["--trainer.max_epochs=1"], without_data=scope["SAMPLE_PARTS"])
    assert settings.data["class_path"].endswith("SampleParts")
    assert settings.trainer["max_epochs"] == 1
    assert settings.model["pre_processor"]["class_path"].endswith("PreProcessor")


def test_an_unknown_argument_of_the_model_is_told(capsys):
    parser = runpy.run_path(str(JOBS / "train.py"))["create_parser"]()
    with pytest.raises((SystemExit, ArgumentError)):
        parse(parser, ["--data=MVTec", "--model.n_studens=1"], without_data=CONFIGS / "none.yaml")
    assert "n_studens" in capsys.readouterr().err
