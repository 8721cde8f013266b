"""The pictures of the images on which a model does best and worst."""

import numpy as np
import pytest

pytest.importorskip("ray")

from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from lightning.pytorch import Trainer
from PIL import Image
from ray.train.lightning import RayTrainReportCallback

from anomalib_students.figures.examples import find_test_images, read_examples
from anomalib_students.figures.scores import score_image
from anomalib_students.runs import finish
from anomalib_students.runs.experiment import Experiment
from anomalib_students.runs.finish import BestAndWorst, finish_category
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


def area(image):
    """Area under the ROC curve, pixel by pixel: of pairs of a bad and a good pixel, the part in the right order."""
    scores = image.maps["p = 33"]
    bad, good = scores[image.mask], scores[~image.mask]
    return np.mean((bad[:, None] > good) + 0.5 * (bad[:, None] == good))


def test_best_and_worst_are_drawn_with_their_maps(model, datamodule, tmp_path, monkeypatch):
    drawn = []
    draw_panels = finish.draw_panels
    monkeypatch.setattr(finish, "draw_panels", lambda images: drawn.extend(images) or draw_panels(images))
    extremes = BestAndWorst()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", callbacks=[extremes], enable_progress_bar=False)
    engine.test(model, datamodule=datamodule, verbose=False)
    extremes.save(tmp_path, model, datamodule)

    images = [score_image(model, batch) for batch in read_examples(find_test_images(datamodule))]
    areas = {image.name: area(image) for image in images if image.mask.any()}
    assert len(set(areas.values())) == 2
    assert sorted(extremes.areas.values()) == pytest.approx(sorted(areas.values()), abs=1e-3)
    assert [image.name for image in drawn] == [max(areas, key=areas.get), min(areas, key=areas.get)]
    best, worst = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("best", "worst"))
    assert best.shape != worst.shape or (best != worst).any()


def test_without_masks_nothing_is_drawn(model, datamodule, tmp_path):
    BestAndWorst().save(tmp_path, model, datamodule)
    assert not list(tmp_path.glob("*.png"))


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
    assert written - {"report.html"} == {"model.ckpt", "best.png", "worst.png"}
    assert ("report.html" in written) == report
    if report:
        html = (tmp_path / "grid" / "dots" / "report.html").read_text()
        assert html.count("<article") == 4
        assert "held out of the training" in html


def test_whether_there_are_reports_does_not_hinder_to_resume():
    settings = [Experiment(data={"class_path": "MVTec"}, report=report).as_dict() for report in (False, True)]
    assert settings[0] == settings[1]
    assert settings[0]["storage_path"] == "results/ray"
