"""The soak: a kill of a real pretraining, and kills that do harm."""

import math
import sys

import pytest
import torch


@pytest.mark.slow
def test_a_killed_pretraining_ends_as_if_it_was_not_killed(tmp_path, capsys):
    from soak import soak

    with pytest.raises(SystemExit) as ended:
        soak(train=0, pretrain=1, export=0, folder=tmp_path / "soak")
    assert capsys.readouterr().out == "pretraining-0: as if uninterrupted\n"
    assert ended.value.code == 0


def test_harm_is_told(tmp_path):
    from soak import kill_and_resume, state

    def save(folder):
        """Write half a checkpoint, and wait to be killed."""
        folder.mkdir(exist_ok=True)
        script = f"import time; open('{folder}/last.ckpt', 'wb').write({content!r}); time.sleep({seconds})"
        return [sys.executable, "-c", script]

    torch.save({"state_dict": {"weight": torch.ones(1000)}}, tmp_path / "whole.ckpt")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole.ckpt").rename(tmp_path / "whole" / "last.ckpt")
    whole, content, seconds = state(tmp_path / "whole"), (tmp_path / "whole" / "last.ckpt").read_bytes(), 0
    assert kill_and_resume(save, tmp_path / "a", 60, [whole]) == ""
    other = {"weight": whole["weight"] + 1e-4}
    assert "differs from that of an uninterrupted run" in kill_and_resume(save, tmp_path / "b", 60, [other])
    assert "neither the old export nor the new one" in kill_and_resume(save, tmp_path / "c", 60, [other, other])
    content, seconds = content[:500], 60
    assert "a file is damaged" in kill_and_resume(save, tmp_path / "d", 4, [whole])


def test_states_are_compared_to_1e_5_and_nan_equals_nan():
    from soak import are_equal

    first = {"a": torch.tensor([1.0, math.nan]), "b": torch.tensor([2, 3])}
    assert are_equal(first, {**first, "a": torch.tensor([1.000001, math.nan])})
    assert not are_equal(first, {**first, "b": torch.tensor([2, 5])})
    assert not are_equal(first, {**first, "a": torch.tensor([1.0, 2.0])})
    assert not are_equal(first, {"a": first["a"]})
