"""The whole file for a trained model, against what anomalib's engine says of the same model and data."""

import re
import shutil
from collections import Counter
from pathlib import Path

import html5lib
import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTec
from anomalib.engine import Engine
from sklearn.metrics import roc_auc_score

from anomalib_students.report.page import _percent, write_report

from .conftest import SCRIPT

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


class Page:
    """A report as a browser reads it; a file that is not well-formed is an error."""

    def __init__(self, path):
        self.html = path.read_text()
        self.root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(self.html)

    def text(self, selector=".//body"):
        return " ".join(" ".join(self.root.find(selector).itertext()).split())

    @property
    def numbers(self):
        """The large number of each tile, by the heading of the tile."""
        tiles = self.root.findall(".//div[@class='tiles']/div")
        return {
            tile.find("h3").text: tile.find("p[@class='number']").text.replace("\N{NO-BREAK SPACE}", " ")
            for tile in tiles
        }

    @property
    def rows(self):
        """Texts of the cells of the table, by the type of the defect."""
        rows = [["".join(cell.itertext()) for cell in row] for row in self.root.findall(".//table//tr")]
        return {row[0]: row[1:] for row in rows}

    @property
    def cards(self):
        return self.root.findall(".//article")


@pytest.fixture
def write(tmp_path):
    """Write a report and read it."""

    def write(model, datamodule, **arguments):
        write_report(model, datamodule, tmp_path / "report.html", **arguments, **QUIET)
        return Page(tmp_path / "report.html")

    return write


@pytest.fixture
def predictions(model, datamodule, tmp_path):
    """What anomalib predicts for the test images: a dictionary for each."""
    engine = Engine(default_root_dir=tmp_path, logger=False, **QUIET)
    batches = engine.predict(model, datamodule=datamodule)
    return [
        {
            "kind": Path(item.image_path).parent.name,
            "name": f"{Path(item.image_path).parent.name}/{Path(item.image_path).stem}",
            "score": float(item.pred_score),
            "is_alarm": bool(item.pred_label),
            "is_defective": Path(item.image_path).parent.name != "good",
        }
        for batch in batches
        for item in batch
    ]


def test_numbers_are_those_of_anomalib(write, model, datamodule, predictions, tmp_path):
    page = write(model, datamodule, source="somewhere/model.ckpt")
    counts = Counter((each["is_defective"], each["is_alarm"]) for each in predictions)
    n_good, n_defective = counts[False, False] + counts[False, True], counts[True, False] + counts[True, True]
    assert (n_good, n_defective) == (4, 5)
    n_alarms = counts[False, True] + counts[True, True]
    assert page.numbers == {
        "Threshold": "0.50",
        "False alarms": f"{100 * counts[False, True] / 4:.0f} %",
        "Recall": f"{100 * counts[True, True] / 5:.0f} %",
        "Precision": f"{100 * counts[True, True] / n_alarms:.0f} %",
    }
    assert f"{counts[True, True]} of 5 defective images are found; {counts[True, False]} are missed." in page.text()
    auroc = roc_auc_score([each["is_defective"] for each in predictions], [each["score"] for each in predictions])
    assert f"AUROC {auroc:.3f}" in page.text(".//section[@id='curves']")
    (metrics,) = Engine(default_root_dir=tmp_path, logger=False, **QUIET).test(model, datamodule=datamodule)
    assert metrics["image_AUROC"] == pytest.approx(auroc)
    assert page.rows["all defects"][-2:] == [f"{auroc:.3f}", f"{metrics['pixel_AUPRO']:.3f}"]
    for kind in ("faint", "square"):
        own = [each for each in predictions if each["kind"] == kind]
        good_scores = [each["score"] for each in predictions if not each["is_defective"]]
        scores = [each["score"] for each in own]
        truth = [False] * len(good_scores) + [True] * len(scores)
        n_found = sum(each["is_alarm"] for each in own)
        assert page.rows[kind][:4] == [
            str(len(own)),
            f"{n_found} ({100 * n_found / len(own):.0f}\N{NO-BREAK SPACE}%)",
            f"{np.mean(scores):.2f}",
            f"{roc_auc_score(truth, good_scores + scores):.3f}",
        ]
    assert "somewhere/model.ckpt" in page.text(".//header")


def test_all_images_are_shown_with_their_scores_and_mistakes_first(write, model, datamodule, predictions):
    page = write(model, datamodule)
    shown = {
        card.get("data-name"): (float(card.get("data-score")), card.get("data-outcome"), len(card.findall(".//img")))
        for card in page.cards
    }
    outcomes = {(False, True): "false alarm", (True, False): "missed", (True, True): "found", (False, False): "passed"}
    for each in predictions:
        outcome = outcomes[each["is_defective"], each["is_alarm"]]
        # The image and its map, each under the outline of its ground truth if it is defective.
        assert shown.pop(each["name"]) == (
            pytest.approx(each["score"], abs=1e-5),
            outcome,
            4 if each["is_defective"] else 2,
        )
    assert not shown
    order = [list(outcomes.values()).index(card.get("data-outcome")) for card in page.cards]
    assert order == sorted(order)


def test_names_are_text(write, model, datamodule):
    page = write(model, datamodule)
    assert len(page.root.findall(".//script")) == 1
    assert {card.get("data-kind") for card in page.cards} == {"good", "faint", "square", SCRIPT}
    assert page.rows[SCRIPT][0] == "1"
    assert "owned" not in "".join(page.root.find(".//script").itertext())


def test_nothing_is_loaded_from_elsewhere(write, model, datamodule):
    page = write(model, datamodule)
    references = [
        element.get(name)
        for element in page.root.iter()
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
        if element.get(name) is not None
    ]
    assert len(references) > 9
    assert all(re.match(r"data:image/(jpeg|png|svg\+xml);base64,", reference) for reference in references)
    policy = page.root.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    assert "default-src 'none'" in policy
    assert "//" not in re.sub(r"base64,[^\"]*", "", page.html)
    assert not re.search(r"@import|url\(", page.html)


def test_a_model_is_left_as_it_was(write, model, datamodule):
    components = model.pre_processor, model.post_processor, model.evaluator, model.visualizer
    state = {name: value.clone() for name, value in model.state_dict().items()}
    write(model, datamodule)
    assert (model.pre_processor, model.post_processor, model.evaluator, model.visualizer) == components
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True)


def own_folders(data_root, **arguments):
    return Folder("parts", root=data_root / "dots", normal_dir="train/good", num_workers=0, **arguments)


def test_good_images_alone_have_false_alarms_and_no_curves(write, model, data_root):
    page = write(model, own_folders(data_root, normal_test_dir="test/good", val_split_mode="none"))
    assert page.numbers["Recall"] == page.numbers["Precision"] == "?"
    assert page.numbers["False alarms"].endswith("%")
    assert "There is no ROC curve" in page.text()
    assert len(page.root.findall(".//figure")) == 1
    assert list(page.rows) == ["Type", "good (no defect)"]
    assert len(page.cards) == 4


def test_without_masks_there_is_no_aupro(write, model, data_root):
    folders = {"normal_test_dir": "test/good", "abnormal_dir": "test/square", "val_split_mode": "none"}
    page = write(model, own_folders(data_root, **folders))
    assert "AUROC" in page.rows["Type"]
    assert "There is no AUPRO: it takes masks of all defects" in page.text()
    assert "AUPRO" not in page.rows["Type"]
    # The image and its map, without an outline.
    assert {len(card.findall(".//img")) for card in page.cards} == {2}
    assert page.root.find(".//input[@id='outlines']") is None


def test_without_a_threshold_nothing_is_decided(write, model, datamodule):
    for threshold in (model.post_processor._image_threshold, model.post_processor._pixel_threshold):
        threshold.fill_(torch.nan)
    page = write(model, datamodule)
    assert page.numbers == {"Threshold": "none"}
    assert "The model has no threshold" in page.text(".//section[@id='decision']")
    assert page.rows["Type"] == ["Images", "Mean score", "AUROC", "AUPRO"]
    assert Counter(card.get("data-outcome") for card in page.cards) == {"good": 4, "defective": 5}


def test_the_expected_false_alarms_stand_beside_the_seen_ones(write, model, datamodule):
    model.post_processor.choose(torch.linspace(1, 2, 26))
    decision = model.post_processor.decision
    text = write(model, datamodule).text(".//section[@id='decision']").replace("\N{NO-BREAK SPACE}", " ")
    assert "26 good images" in text
    between = " and ".join(f"{100 * rate:.1f} %".replace(".0", "") for rate in (decision.lower, decision.upper))
    assert f"Expected: 1 %, and with 90 % confidence between {between}." in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.0001, "0"), (0.0123, "1.2"), (0.05, "5"), (0.3, "30"), (0.999, "100"), (1, "100")],
)
def test_rates_are_written_in_percent(value, expected):
    assert _percent(value) == f"{expected}\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(("output", "n_images"), [("report.txt", 9), ("", 9), ("report.html", 0)])
def test_bad_arguments_are_refused_before_any_work(model, datamodule, tmp_path, output, n_images):
    with pytest.raises(ValueError, match=r"\*\.html|n_images must be at least 1"):
        write_report(model, datamodule, tmp_path / output, n_images=n_images)
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_leaves_no_report(model, data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / "data")
    (tmp_path / "data" / "dots" / "test" / "good" / "001.png").write_bytes(b"no image")
    datamodule = MVTec(root=tmp_path / "data", category="dots", num_workers=0)
    with pytest.raises(ValueError, match=r"001\.png"):
        write_report(model, datamodule, tmp_path / "out" / "report.html", **QUIET)
    assert not list((tmp_path / "out").iterdir())
