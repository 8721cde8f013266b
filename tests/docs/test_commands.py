"""Every shell command of the documents is read by the parser of the program that it calls."""

import argparse
import runpy
import subprocess
import sys
from functools import cache

import jsonargparse
import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data.datasets.base import image as image_dataset
from anomalib.models.components import KCenterGreedy

from anomalib_students import cli
from anomalib_students.line.command import create_parser as line_parser

from .documents import DOCUMENTS, ROOT, blocks, commands, inline_code

SCRIPTS = ("benchmarks", "configs", "docs", "ray_jobs", "reproduction")
BLOCKS = blocks("sh")


class Parsed(BaseException):
    """A script has read its command line, which is all that is wanted of it."""


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """A folder that looks like a clone in which a sweep has ended."""
    for name in (*SCRIPTS, "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    best = tmp_path / "results" / "ray" / "sweep" / "best.yaml"
    best.parent.mkdir(parents=True)
    best.write_text("images: path/to/photographs\nlambda_k: 1.0\n")
    monkeypatch.chdir(tmp_path)


@cache
def anomalib_parser():
    """The parser of anomalib's command line, without what follows the parsing."""
    command_line = object.__new__(AnomalibCLI)
    command_line.parser = command_line.init_parser()
    command_line.subcommand_parsers = {}
    command_line.subcommand_method_arguments = {}
    command_line.add_subcommands()
    return command_line.parser


def check_anomalib(arguments, monkeypatch):
    if not {"--model.help"} & set(arguments):
        anomalib_parser().parse_args(arguments)


def check_ours(arguments, monkeypatch):
    if arguments[0] in {"inspect", "check", "adjust"}:
        line_parser().parse_args(arguments)
    else:
        jsonargparse.capture_parser(cli.main).parse_args(arguments)


def check_script(arguments, monkeypatch):
    """Run a script up to the end of its parsing."""
    script, *arguments = arguments
    is_module = script == "-m"
    if is_module:
        script, *arguments = arguments
    folder = ROOT / script.partition("/")[0]
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        parse_args = parser.parse_args

        def and_stop(self, *args, parse_args=parse_args, **kwargs):
            parse_args(self, *args, **kwargs)
            raise Parsed

        monkeypatch.setattr(parser, "parse_args", and_stop)
    # What the benchmarks change in others when they are imported.
    for name in ("read_image", "read_mask"):
        monkeypatch.setattr(image_dataset, name, getattr(image_dataset, name))
    monkeypatch.setattr(KCenterGreedy, "update_distances", KCenterGreedy.update_distances)
    threads = torch.get_num_threads()
    with pytest.raises(Parsed):
        (runpy.run_module if is_module else runpy.run_path)(script, run_name="__main__")
    torch.set_num_threads(threads)


def check_make(arguments, monkeypatch):
    subprocess.run(["make", "--dry-run", *arguments], check=True, capture_output=True)


def check_pip(arguments, monkeypatch):
    """Parse with pip's own parser; what is installed is this repository, with extras that it has."""
    from pip._internal.commands import create_command

    command, *arguments = arguments
    _, requirements = create_command(command).parse_args(arguments)
    assert requirements
    for requirement in requirements:
        path, _, extras = requirement.partition("[")
        assert path == "." or path.startswith("anomalib_students-"), requirement
        for extra in filter(None, extras.rstrip("]").split(",")):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


def check_export(arguments, monkeypatch):
    assert all("=" in argument for argument in arguments)


def check_ray(arguments, monkeypatch):
    """Only what Ray runs: its own options are Ray's."""
    check_words(arguments[arguments.index("--") + 1 :], monkeypatch)


CHECKS = {
    "anomalib": check_anomalib,
    "anomalib-students": check_ours,
    "export": check_export,
    "make": check_make,
    "pip": check_pip,
    "python": check_script,
    "ray": check_ray,
}


def check_words(words, monkeypatch):
    if words[0].startswith("--"):
        # More arguments for the command above.
        words = ["anomalib", "train", "--model", "UninformedStudents", "--data", "MVTec", *words]
    assert words[0] in CHECKS, f"there is no check for {words[0]} yet"
    CHECKS[words[0]](words[1:], monkeypatch)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_commands_are_accepted(block, monkeypatch):
    for words in commands(block.text):
        with monkeypatch.context() as patches:
            try:
                check_words(words, patches)
            except SystemExit as ended:
                pytest.fail(f"{' '.join(words)}: {ended}")


def options_of(words):
    """The names of a command's options."""
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def subparser(parser, name):
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return action.choices[name]


def test_commands_in_sentences_exist():
    """They may be cut short, so that only the names of subcommands, scripts and options are looked at."""
    seen = set()
    for document in DOCUMENTS:
        for code in inline_code(document):
            program, _, rest = code.partition(" ")
            if not rest or program not in {"anomalib", "anomalib-students", "make", "python"}:
                continue
            (words,) = commands(rest)
            seen.add(program)
            if program == "make":
                targets = [word for word in words if "=" not in word]
                assert all(f"\n{target}: " in (ROOT / "Makefile").read_text() for target in targets), code
            elif program == "python":
                assert words[0] == "-m" or (ROOT / words[0]).is_file(), code
            else:
                parser = anomalib_parser() if program == "anomalib" else jsonargparse.capture_parser(cli.main)
                if words[0] in {"inspect", "check", "adjust"}:
                    parser = line_parser()
                while words and not words[0].startswith("-"):
                    name, *words = words
                    parser = subparser(parser, name)
                for option in options_of(words):
                    # Arguments of a model or of data depend on which it is.
                    known = option in parser._option_string_actions or option.startswith(("--model.", "--data."))
                    assert known, f"{document.name}: {code}"
    assert seen == {"anomalib", "anomalib-students", "make", "python"}


@pytest.mark.parametrize(
    "words",
    [
        ["anomalib", "train", "--model", "UninformedStudents", "--model.patch_size", "33"],
        ["anomalib-students", "report", "--checkpoints", "model.ckpt"],
        ["python", "-m", "reproduction", "maps", "--checkpoints", "model.ckpt"],
        ["python", "benchmarks/memory.py", "--max_tile", "512"],
        ["python", "ray_jobs/train.py", "--patch_size", "33"],
        ["pip", "install", ".[gpu]"],
        ["make", "everything"],
    ],
    ids=lambda words: words[0],
)
def test_a_wrong_command_is_found(words, monkeypatch):
    with pytest.raises((SystemExit, AssertionError, subprocess.CalledProcessError)):
        check_words(words, monkeypatch)
