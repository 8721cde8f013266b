"""No argument of ours constructs what we did not name."""

import json
import runpy
from argparse import ArgumentError
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser, capture_parser

from anomalib_students.cli import main

JOBS = Path(__file__).parents[2] / "ray_jobs"


@pytest.fixture
def crafted(tmp_path):
    """Settings that start a program when they are instantiated, and the file that the program writes."""
    written = tmp_path / "written"
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(written)]}}
    return {"profiler": popen}, written


def ray_parser(job):
    pytest.importorskip("ray")
    return runpy.run_path(str(JOBS / job))["create_parser"]()


def refuses(parser, *arguments, capsys):
    """Whether parsing and instantiating ends in an error that names the argument."""
    with pytest.raises((SystemExit, ArgumentError)):
        parser.instantiate_classes(parser.parse_args(list(arguments)))
    return capsys.readouterr().err


def test_pretraining_starts_no_program(crafted, tmp_path, capsys):
    settings, written = crafted
    config = tmp_path / "crafted.yaml"
    config.write_text(json.dumps({"images": "i", "output": "o.safetensors", "trainer_arguments": settings}))
    assert "trainer_arguments" in refuses(capture_parser(main), "pretrain", "-c", str(config), capsys=capsys)
    assert not written.exists()


@pytest.mark.parametrize("job", ["train.py", "sweep.py"])
def test_ray_jobs_start_no_program(job, crafted, capsys):
    settings, written = crafted
    error = refuses(ray_parser(job), "--data=MVTec", f"--trainer={json.dumps(settings)}", capsys=capsys)
    assert "trainer" in error
    assert not written.exists()


def test_plain_arguments_of_the_trainer_are_taken():
    plain = {"enable_progress_bar": False, "max_epochs": 3, "gradient_clip_val": 0.5, "precision": "16-mixed"}
    plain |= {"devices": [0, 1], "max_time": "00:01:00:00", "max_steps": None}
    arguments = [f"--trainer_arguments={json.dumps(plain)}", "--trainer_arguments.limit_train_batches=2"]
    settings = capture_parser(main).parse_args(["pretrain", "--images=i", "--output=o.safetensors", *arguments])
    assert settings.pretrain.trainer_arguments == {**plain, "limit_train_batches": 2}


def types_of(parser):
    """Names and types of all arguments of a parser and of its subcommands."""
    for action in parser._actions:
        if isinstance(getattr(action, "choices", None), dict):
            for subparser in action.choices.values():
                yield from types_of(subparser)
        elif not isinstance(action, ArgumentParser):
            yield action.dest, str(getattr(action, "_typehint", ""))


@pytest.mark.parametrize("job", [None, "pretrain.py", "train.py", "sweep.py"])
def test_no_argument_takes_just_any_object(job):
    types = dict(types_of(ray_parser(job) if job else capture_parser(main)))
    assert len(types) > 10
    assert [name for name, hint in types.items() if "Any" in hint or "Callable" in hint or hint == "object"] == []
