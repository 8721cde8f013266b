"""The soak: a kill of a real training, and what it makes of kills that do harm."""

import json
import math
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_a_killed_training_ends_as_if_it_was_not_killed(tmp_path, capsys, monkeypatch):
    """And the kill is not repeated."""
    from soak import Soak, soak

    few = {"pretrain": 0, "export": 0, "grid": 0, "predictions": 0, "folder": tmp_path}
    soak(train=1, **few)
    (kill,) = json.loads((tmp_path / "kills.json").read_text())
    assert kill["kind"] == "train"
    assert kill["difference"] <= 1e-5
    assert kill["problems"] == []
    assert not (tmp_path / "train-0").exists()

    monkeypatch.setattr(Soak, "prepare", lambda self: None)
    monkeypatch.setattr(Soak, "kill", None)
    soak(train=1, **few)
    assert capsys.readouterr().out.count("as if") == 2


def test_harm_is_told_and_ends_with_status_1(tmp_path, capsys, monkeypatch):
    from soak import Kill, Soak, soak

    monkeypatch.setattr(Soak, "prepare", lambda self: None)
    monkeypatch.setattr(Soak, "kill", lambda self, kind, number: Kill(kind, number, 0, problems=["model.ckpt is lost"]))
    with pytest.raises(SystemExit) as ended:
        soak(train=0, pretrain=0, export=0, grid=1, predictions=0, folder=tmp_path)
    assert ended.value.code == 1
    assert "model.ckpt is lost" in capsys.readouterr().out


def test_memory_that_grows_ends_with_status_1(tmp_path, monkeypatch):
    from soak import Soak, soak

    nothing = {"train": 0, "pretrain": 0, "export": 0, "grid": 0, "folder": tmp_path}
    monkeypatch.setattr(Soak, "prepare", lambda self: None)
    monkeypatch.setattr(Soak, "predict", lambda self, number: (1000.0, 1004.0))
    soak(**nothing)
    monkeypatch.setattr(Soak, "predict", lambda self, number: (1000.0, 1006.0))
    with pytest.raises(SystemExit):
        soak(**nothing)


def test_damaged_files_are_named(tmp_path):
    from soak_checks import damaged

    torch.save({"state_dict": {}}, tmp_path / "whole.ckpt")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:100])
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1" / "rays.json").write_text("")
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    assert [problem.split()[0] for problem in sorted(damaged(tmp_path, files))] == ["half.ckpt", "half.json"]


def test_lost_and_missing_files_are_named():
    from soak_checks import lost, missing

    before, after = [Path("v0/model.ckpt"), Path("config.yaml")], [Path("v1/model.ckpt")]
    assert lost(before, after) == ["config.yaml is lost", "v0/model.ckpt is lost"]
    assert missing(before, after) == ["config.yaml is missing"]


def test_differences_are_the_largest_and_nan_equals_nan():
    from soak_checks import difference

    first = {"a": torch.tensor([1.0, math.nan]), "b": torch.tensor([2, 3])}
    assert difference(first, first) == 0
    assert difference(first, {**first, "b": torch.tensor([2, 5])}) == 2
    assert difference(first, {**first, "a": torch.tensor([1.0, 2.0])}) == math.inf
    assert difference(first, {"a": first["a"]}) == math.inf


@pytest.mark.parametrize("name", [".export-1/model.bin", "results.csv.1.partial", ".model.ckpt.2.partial"])
def test_a_write_that_is_under_way_is_seen(name, tmp_path):
    from soak_processes import is_writing, visible_files

    (tmp_path / "model.ckpt").touch()
    (tmp_path / ".validate").touch()
    (tmp_path / ".export-0").mkdir()
    assert not is_writing(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert is_writing(tmp_path)
    assert visible_files(tmp_path) == {Path("model.ckpt")}
