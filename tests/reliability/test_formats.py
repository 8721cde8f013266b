"""What an earlier version has written is read as it was meant, and what a later one has written is refused by name."""

from pathlib import Path

import pytest
import torch
from anomalib.models import UninformedStudents
from safetensors.torch import load_file, save_file

from anomalib_students.model.checkpoints import CHECKPOINT_FORMAT, CHECKPOINT_KEY
from anomalib_students.model.lightning_model import SETTINGS_KEY
from anomalib_students.model.merge import merge_scales
from anomalib_students.networks import patch_network
from anomalib_students.networks.weights import TEACHER_FORMAT, load_teacher, read_metadata

from ..fixtures.make import FIXTURES, MODEL, NARROW, SIDE, predict, read_scores
from ..integration.conftest import students
from .small import small_data, small_engine

CHECKPOINT, TEACHER = FIXTURES / f"format{CHECKPOINT_FORMAT}.ckpt", FIXTURES / f"format{TEACHER_FORMAT}.safetensors"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_network, "LAYERS", NARROW)


def fixture_model(**arguments) -> UninformedStudents:
    pre_processor = UninformedStudents.configure_pre_processor((SIDE, SIDE))
    return students(**{"pre_processor": pre_processor, "visualizer": False, **MODEL, **arguments})


@pytest.fixture
def changed(tmp_path: Path):
    """Write the checkpoint with a change."""

    def changed(change) -> Path:
        checkpoint = torch.load(CHECKPOINT, weights_only=False)
        change(checkpoint)
        path = tmp_path / "changed.ckpt"
        torch.save(checkpoint, path)
        return path

    return changed


def assert_scores(model: UninformedStudents, names=("raw_scores", "scores", "mean_of_map")) -> None:
    """The model gives the scores that it gave when the checkpoint was made."""
    scores, expected = predict(model), read_scores(CHECKPOINT_FORMAT)
    for name in names:
        assert scores[name] == pytest.approx(expected[name], rel=1e-4), name


def test_a_checkpoint_gives_the_scores_that_it_gave() -> None:
    assert_scores(UninformedStudents.load_from_checkpoint(CHECKPOINT))
    assert_scores(merge_scales([UninformedStudents.load_from_checkpoint(CHECKPOINT)]), ["raw_scores"])


def test_a_checkpoint_is_tested_by_the_engine(tmp_path: Path) -> None:
    model = fixture_model(teacher=None)
    small_engine(tmp_path).test(model, datamodule=small_data(tmp_path / "data"), ckpt_path=CHECKPOINT)
    assert_scores(model.cpu())


def test_a_teacher_is_that_of_the_checkpoint() -> None:
    teacher = load_teacher(TEACHER, 17, MODEL["descriptor_dim"]).state_dict()
    in_checkpoint = UninformedStudents.load_from_checkpoint(CHECKPOINT).model.ensembles["p17"].teacher.state_dict()
    assert teacher.keys() == in_checkpoint.keys()
    for name, weight in teacher.items():
        assert torch.equal(weight, in_checkpoint[name])


def without_a_format(checkpoint: dict) -> None:
    del checkpoint[CHECKPOINT_KEY]


def newer_with_arguments_that_mean_nothing_here(checkpoint: dict) -> None:
    checkpoint[CHECKPOINT_KEY] = CHECKPOINT_FORMAT + 1
    checkpoint["hyper_parameters"]["architecture"] = "huge"
    checkpoint["state_dict"] = {"model.new": torch.zeros(1)}


@pytest.mark.parametrize("change", [without_a_format, newer_with_arguments_that_mean_nothing_here])
def test_checkpoints_of_another_format_are_refused_by_name(change, changed, tmp_path: Path) -> None:
    path = changed(change)
    reasons = {
        without_a_format: "no format of anomalib-students: it is of another model",
        newer_with_arguments_that_mean_nothing_here: rf"format {CHECKPOINT_FORMAT + 1}, but anomalib-students",
    }
    refused = rf"The checkpoint .*changed\.ckpt has {reasons[change]}"
    with pytest.raises(ValueError, match=refused) as error:
        UninformedStudents.load_from_checkpoint(path)
    assert "\n" not in str(error.value)
    engine, datamodule = small_engine(tmp_path, max_epochs=4), small_data(tmp_path / "data")
    for use in (engine.fit, engine.test, engine.predict):
        with pytest.raises(ValueError, match=refused):
            use(fixture_model(teacher=None), datamodule=datamodule, ckpt_path=path)


def of_an_architecture_that_is_gone(checkpoint: dict) -> None:
    for name in ("hyper_parameters", SETTINGS_KEY):
        checkpoint[name]["architecture"] = "light"


def test_a_checkpoint_of_an_unknown_architecture_is_refused(changed, tmp_path: Path) -> None:
    path = changed(of_an_architecture_that_is_gone)
    refused = r"^architecture must be one of \('paper', 'lean'\), got 'light'\.$"
    with pytest.raises(ValueError, match=refused):
        UninformedStudents.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=refused):
        small_engine(tmp_path).test(UninformedStudents(), datamodule=small_data(tmp_path / "data"), ckpt_path=path)


@pytest.mark.parametrize("name", [TEACHER_FORMAT + 1, 0, "new", ""])
def test_teachers_of_another_format_are_refused(name: object, tmp_path: Path) -> None:
    """Though their weights are of a type that this version does not know either."""
    path = tmp_path / "newer.safetensors"
    weights = {"new": torch.zeros(1, dtype=torch.int8), **load_file(TEACHER)}
    save_file(weights, path, metadata={**read_metadata(TEACHER), "teacher_format": str(name)})
    for read in (read_metadata, lambda path: load_teacher(path, 17, MODEL["descriptor_dim"])):
        with pytest.raises(ValueError, match=rf"The teacher .*newer\.safetensors has format {name}, but") as error:
            read(path)
        assert "\n" not in str(error.value)
