"""Whether jobs are done by Ray or in this process."""

import pytest

from anomalib_students.runs import place
from anomalib_students.runs.place import Place


def test_ray_is_used_where_it_helps(monkeypatch):
    monkeypatch.setattr(place.os, "cpu_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(place, "find_spec", lambda name: name)
    assert Place().uses_ray(n_jobs=2)
    assert not Place().uses_ray(n_jobs=1)
    assert not Place(cpus=5).uses_ray(n_jobs=2)
    assert Place(cpus=5, address="auto").uses_ray(n_jobs=2)
    assert not Place(ray=False).uses_ray(n_jobs=2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert not Place().uses_ray(n_jobs=2)
    assert Place(gpus=0.5).uses_ray(n_jobs=2)


def test_without_ray_it_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(place, "find_spec", lambda name: None)
    assert not Place().uses_ray(n_jobs=2)
    with pytest.raises(ValueError, match="Ray is not installed: pip install"):
        Place(ray=True)


def test_a_cell_needs_something():
    with pytest.raises(ValueError, match="A cell needs more than no CPU core"):
        Place(cpus=0)
