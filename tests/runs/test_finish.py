"""What finishes a category."""

import pytest

pytest.importorskip("ray")

from anomalib.data import MVTec
from anomalib.models import UninformedStudents
from lightning.pytorch import Trainer
from ray.train.lightning import RayTrainReportCallback

from anomalib_students.runs.experiment import Experiment
from anomalib_students.runs.finish import finish_category
from anomalib_students.runs.jobs import Compute
from tests.integration.conftest import write_category


@pytest.fixture
def datamodule(tmp_path):
    write_category(tmp_path / "data" / "dots", n_train=1)
    return MVTec(root=tmp_path / "data", category="dots", num_workers=0)


@pytest.fixture
def model():
    model = UninformedStudents(
        patch_sizes=(33,),
        n_students=2,
        output_stride=8,
        teacher=None,
        descriptor_dim=8,
        pre_processor=UninformedStudents.configure_pre_processor((48, 48)),
        visualizer=False,
    )
    return model.eval()


@pytest.mark.parametrize("report", [False, True])
def test_a_category_has_a_report_if_it_is_asked_for(model, datamodule, tmp_path, report):
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "trained" / RayTrainReportCallback.CHECKPOINT_NAME)
    experiment = Experiment(
        data={"class_path": "MVTec", "init_args": {"root": str(datamodule.root)}},
        storage_path=str(tmp_path),
        report=report,
    )
    checkpoints = {33: str(tmp_path / "trained")}
    results = finish_category(experiment, "dots", checkpoints, experiment.storage, Compute("cpu"))
    assert results["category"] == "dots"
    assert [row["scale"] for row in results["rows"]] == ["33"]
    written = {path.name for path in (tmp_path / "grid" / "dots").iterdir()}
    assert written - {"report.html"} == {"model.ckpt"}
    assert ("report.html" in written) == report
    if report:
        html = (tmp_path / "grid" / "dots" / "report.html").read_text()
        assert html.count("<article") == 4
        assert "held out of the training" in html


def test_whether_there_are_reports_does_not_hinder_to_resume():
    settings = [Experiment(data={"class_path": "MVTec"}, report=report).as_dict() for report in (False, True)]
    assert settings[0] == settings[1]
    assert settings[0]["storage_path"] == "results/ray"
