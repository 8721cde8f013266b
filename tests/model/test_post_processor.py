"""Normalised scores keep their order, and thresholds come from the images that they should come from."""

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor

from anomalib_students.false_alarms import fit_gumbel, margin
from anomalib_students.model.post_processor import FalseAlarmPostProcessor

GOOD_SCORES = torch.linspace(1, 2, 25)


@pytest.fixture
def chosen() -> FalseAlarmPostProcessor:
    """Post-processor with thresholds from 25 good images."""
    post_processor = FalseAlarmPostProcessor()
    post_processor.choose(GOOD_SCORES)
    return post_processor


def validate(post_processor: FalseAlarmPostProcessor, scores: list[float], labels: list[int]) -> None:
    """Show a validation to a post-processor."""
    count = len(scores)
    batch = ImageBatch(
        image=torch.zeros(count, 3, 2, 2),
        pred_score=torch.tensor(scores),
        anomaly_map=torch.tensor(scores).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        gt_label=torch.tensor(labels).bool(),
        gt_mask=torch.tensor(labels).view(-1, 1, 1).expand(-1, 2, 2).bool(),
    )
    post_processor.on_validation_batch_end(None, None, batch)
    post_processor.on_validation_epoch_end(None, None)


def normalise(post_processor: PostProcessor, scores: torch.Tensor) -> InferenceBatch:
    """Post-process image scores and a map of the same numbers."""
    return post_processor(InferenceBatch(pred_score=scores, anomaly_map=scores.view(1, 1, 1, -1)))


def test_that_the_threshold_is_the_fitted_distribution_s(chosen: FalseAlarmPostProcessor) -> None:
    fitted = fit_gumbel(GOOD_SCORES)
    expected = fitted.location + margin(25, 0.01).scales * fitted.scale
    assert chosen.image_threshold == pytest.approx(expected)
    scores = normalise(chosen, torch.tensor([fitted.location, expected - 1e-3, expected + 1e-3]))
    assert scores.pred_score.tolist() == pytest.approx([0.25, 0.5, 0.5], abs=1e-3)
    assert scores.pred_label.tolist() == [False, False, True]


def test_that_no_order_is_lost(chosen: FalseAlarmPostProcessor) -> None:
    raw = torch.tensor([-1e3, -5.0, 0.0, 1.0, 2.5, 3.0, 10.0, 1e3, 1e4])
    scores = normalise(chosen, raw).pred_score
    assert (scores.diff() > 0).all()
    assert scores.min() > 0
    assert scores.max() < 1


def test_that_near_the_threshold_scores_are_anomalib_s(chosen: FalseAlarmPostProcessor) -> None:
    """To first order: with the same threshold and range, the difference is quadratic in the distance."""
    theirs = PostProcessor()
    buffers = {name: value for name, value in chosen.state_dict().items() if name in theirs.state_dict()}
    theirs.load_state_dict(buffers)
    width = chosen.image_max - chosen.image_min
    for distance in (1e-2, 1e-3):
        raw = chosen.image_threshold + distance * width
        assert normalise(chosen, raw.view(1)).pred_score == pytest.approx(
            float(normalise(theirs, raw.view(1)).pred_score), abs=2.1 * distance**2
        )


def test_that_broken_images_of_exported_models_score_one(chosen: FalseAlarmPostProcessor) -> None:
    predictions = normalise(chosen, torch.tensor([torch.inf]))
    assert predictions.pred_score.item() == 1
    assert predictions.pred_label.item()
    assert predictions.pred_mask.all()


def test_that_validation_images_have_no_part(chosen: FalseAlarmPostProcessor) -> None:
    before = {name: value.clone() for name, value in chosen.state_dict().items()}
    validate(chosen, [1.0, 50.0, 70.0, 80.0], [0, 0, 1, 1])
    assert all(torch.equal(value, before[name]) for name, value in chosen.state_dict().items())
    assert chosen.decision.rule == "normal"


def test_that_f1_chooses_what_anomalib_chooses() -> None:
    ours, theirs = FalseAlarmPostProcessor("f1"), PostProcessor()
    ours.choose(GOOD_SCORES)
    for post_processor in (ours, theirs):
        validate(post_processor, [1.0, 50.0, 70.0, 80.0], [0, 0, 1, 1])
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert ours.decision.rule == "f1"


def test_that_f1_without_anomalies_keeps_the_threshold_of_good_images(caplog: pytest.LogCaptureFixture) -> None:
    post_processor = FalseAlarmPostProcessor("f1")
    post_processor.choose(GOOD_SCORES)
    threshold = post_processor.image_threshold.clone()
    validate(post_processor, [1.0, 50.0], [0, 0])
    assert "No validation image is anomalous" in caplog.text
    assert post_processor.image_threshold == threshold
    assert post_processor.decision.rule == "normal"


def test_that_a_checkpoint_keeps_the_decision(chosen: FalseAlarmPostProcessor) -> None:
    loaded = FalseAlarmPostProcessor()
    loaded.load_checkpoint_config(chosen.checkpoint_config())
    loaded.load_state_dict(chosen.state_dict())
    assert loaded.decision == chosen.decision
    assert loaded.image_threshold == chosen.image_threshold


def test_that_another_rate_can_be_named_after_the_training(chosen: FalseAlarmPostProcessor) -> None:
    loaded = FalseAlarmPostProcessor(false_alarm_rate=0.1)
    loaded.load_checkpoint_config(chosen.checkpoint_config())
    loaded.load_state_dict(chosen.state_dict())
    expected = FalseAlarmPostProcessor(false_alarm_rate=0.1)
    expected.choose(GOOD_SCORES)
    assert loaded.image_threshold == expected.image_threshold < chosen.image_threshold
    assert loaded.pixel_threshold == expected.image_threshold


def test_that_maps_are_optional() -> None:
    post_processor = FalseAlarmPostProcessor()
    post_processor.choose(GOOD_SCORES)
    predictions = post_processor(InferenceBatch(pred_score=torch.tensor([0.0, 9.0]), anomaly_map=None))
    assert predictions.pred_label.tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": "best"}, r"threshold must be one of \('normal', 'f1'\), got 'best'"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate must lie between 0 and 1, got 0.0"),
    ],
)
def test_that_senseless_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FalseAlarmPostProcessor(**arguments)
