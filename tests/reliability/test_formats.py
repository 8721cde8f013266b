"""What an earlier version has written is read as it was meant, and what a later one has written is refused by name."""

from pathlib import Path

import pytest
import torch
from anomalib.models import UninformedStudents
from safetensors.torch import load_file, save_file

from anomalib_students.file_format import CHECKPOINT_FORMAT, CHECKPOINT_KEY, TEACHER_FORMAT
from anomalib_students.model.merge import merge_scales
from anomalib_students.networks import patch_network
from anomalib_students.networks.weights import load_teacher, read_metadata

from ..fixtures.make import FIXTURES, MODEL, NARROW, SIDE, predict, read_scores
from ..integration.conftest import students
from .small import small_data, small_engine

CHECKPOINT, TEACHER = FIXTURES / f"format{CHECKPOINT_FORMAT}.ckpt", FIXTURES / f"format{TEACHER_FORMAT}.safetensors"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_network, "ARCHITECTURES", NARROW)


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


def checkpoint_of(file_format: int) -> Path:
    """Fixture of a format."""
    return FIXTURES / f"format{file_format}.ckpt"


@pytest.mark.parametrize("file_format", range(1, CHECKPOINT_FORMAT + 1))
class TestOlder:
    def assert_scores(self, model: UninformedStudents, file_format: int) -> None:
        scores = predict(model)
        for name, expected in read_scores(file_format).items():
            assert scores[name] == pytest.approx(expected, rel=1e-4), name

    def test_a_checkpoint_gives_the_scores_that_it_gave(self, file_format: int) -> None:
        self.assert_scores(UninformedStudents.load_from_checkpoint(checkpoint_of(file_format)), file_format)

    def test_a_checkpoint_is_tested(self, file_format: int, tmp_path: Path) -> None:
        model = fixture_model(teacher=None)
        small_engine(tmp_path).test(
            model, datamodule=small_data(tmp_path / "data"), ckpt_path=checkpoint_of(file_format)
        )
        self.assert_scores(model.cpu(), file_format)

    def test_a_checkpoint_is_merged(self, file_format: int) -> None:
        merged = predict(merge_scales([UninformedStudents.load_from_checkpoint(checkpoint_of(file_format))]))
        assert merged["raw_scores"] == pytest.approx(read_scores(file_format)["raw_scores"], rel=1e-4)


def test_a_teacher_is_that_of_the_checkpoint() -> None:
    teacher = load_teacher(TEACHER, 17, MODEL["descriptor_dim"], "light").state_dict()
    in_checkpoint = (
        UninformedStudents.load_from_checkpoint(checkpoint_of(1)).model.ensembles["p17"].teacher.state_dict()
    )
    assert teacher.keys() == in_checkpoint.keys()
    for name, weight in teacher.items():
        assert torch.equal(weight, in_checkpoint[name])


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FIXTURES.glob("format*")) < 300_000


def newer(checkpoint: dict) -> None:
    checkpoint[CHECKPOINT_KEY] = CHECKPOINT_FORMAT + 1


def without_a_format(checkpoint: dict) -> None:
    del checkpoint[CHECKPOINT_KEY]


def newer_with_arguments_that_mean_nothing_here(checkpoint: dict) -> None:
    newer(checkpoint)
    checkpoint["hyper_parameters"]["architecture"] = "huge"
    checkpoint["state_dict"] = {"model.new": torch.zeros(1)}


@pytest.mark.parametrize("change", [newer, without_a_format, newer_with_arguments_that_mean_nothing_here])
class TestNewerCheckpoints:
    refused = (
        rf"The checkpoint .*changed\.ckpt has format ({CHECKPOINT_FORMAT + 1}|None), but anomalib-students \S+ knows"
    )

    def test_are_not_loaded(self, change, changed) -> None:
        with pytest.raises(ValueError, match=self.refused) as error:
            UninformedStudents.load_from_checkpoint(changed(change))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("command", ["fit", "test", "predict"])
    def test_are_not_used_by_the_engine(self, command: str, change, changed, tmp_path: Path) -> None:
        engine, datamodule = small_engine(tmp_path, max_epochs=4), small_data(tmp_path / "data")
        with pytest.raises(ValueError, match=self.refused):
            getattr(engine, command)(fixture_model(teacher=None), datamodule=datamodule, ckpt_path=changed(change))


@pytest.mark.parametrize("name", [TEACHER_FORMAT + 1, 0, "new", ""])
def test_teachers_of_another_format_are_refused(name: object, tmp_path: Path) -> None:
    """Though their weights are of a type that this version does not know either."""
    path = tmp_path / "newer.safetensors"
    weights = {"new": torch.zeros(1, dtype=torch.int8), **load_file(TEACHER)}
    save_file(weights, path, metadata={**read_metadata(TEACHER), "teacher_format": str(name)})
    for read in (read_metadata, lambda path: load_teacher(path, 17, MODEL["descriptor_dim"], "light")):
        with pytest.raises(ValueError, match=rf"The teacher .*newer\.safetensors has format {name}, but") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_checkpoints_name_their_format() -> None:
    assert torch.load(CHECKPOINT, weights_only=False)[CHECKPOINT_KEY] == CHECKPOINT_FORMAT
