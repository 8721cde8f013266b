"""What a training keeps in its checkpoints."""

import math

import pytest
import torch
from anomalib.metrics import AUPRO, Evaluator
from anomalib.models import UninformedStudents
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from torchvision.transforms.v2 import Normalize

from tests.reliability.small import small_data, small_engine, small_model

STATISTICS = ("error_mean", "error_std", "uncertainty_mean", "uncertainty_std", "image_threshold", "good_images")


class CopiedState(SingleDeviceStrategy):
    """A strategy whose state dict shares no memory with the model, as those that gather it from several devices."""

    def lightning_module_state_dict(self):
        return {name: value.clone() for name, value in super().lightning_module_state_dict().items()}


class SaveEarly(Callback):
    """Saves before other callbacks and the model come to the end of the epoch, as Ray's does."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)
            self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_statistics_are_in_a_checkpoint_that_copies_the_state(tmp_path):
    save = SaveEarly(tmp_path / "first.ckpt")
    strategy = CopiedState(device=torch.device("cpu"))
    engine = small_engine(tmp_path, max_epochs=2, callbacks=[save], strategy=strategy)
    engine.fit(small_model(n_students=2), datamodule=small_data(tmp_path / "data"))
    saved = torch.load(tmp_path / "first.ckpt", weights_only=False)["state_dict"]
    names = [name for name in saved if name.endswith(STATISTICS)]
    assert len(names) == len(STATISTICS)
    for name in names:
        torch.testing.assert_close(saved[name], save.state[name], rtol=0, atol=0, equal_nan=True)
    (mean,) = [saved[name] for name in names if name.endswith("error_mean")]
    assert mean != 0


def test_the_state_of_a_model_in_training_is_read_without_a_pass_over_the_data(tmp_path):
    """Which a caller in one of several processes could not make."""

    class Read(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pl_module._calibrate = None
            self.state = pl_module.state_dict()
            del pl_module._calibrate

    read = Read()
    small_engine(tmp_path, callbacks=[read]).fit(small_model(), datamodule=small_data(tmp_path / "data"))
    assert read.state


def test_metrics_are_no_part_of_a_checkpoint(tmp_path):
    data = small_data(tmp_path / "data")

    def evaluator():
        return Evaluator(test_metrics=[AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=0.1)])

    for trained, used in ((evaluator(), True), (True, evaluator()), (True, False), (False, evaluator())):
        engine = small_engine(tmp_path, enable_progress_bar=False)
        engine.fit(small_model(evaluator=trained), datamodule=data)
        path = engine.best_model_path
        assert not [name for name in torch.load(path, weights_only=False)["state_dict"] if "evaluator" in name]
        engine.predict(small_model(evaluator=used), ckpt_path=path, datamodule=data)
        loaded = UninformedStudents.load_from_checkpoint(path, evaluator=used)
        for results in (
            small_engine(tmp_path).test(small_model(evaluator=used), ckpt_path=path, datamodule=data),
            small_engine(tmp_path).test(loaded, datamodule=data),
        ):
            assert len(results[0]) == (5 if used is True else int(bool(used)))


def test_another_kind_of_post_processor_is_one_clear_error(tmp_path):
    data = small_data(tmp_path / "data")
    for trained, used, kind in (
        (True, PostProcessor(), "FalseAlarmPostProcessor"),
        (PostProcessor(), True, "anomalib's PostProcessor"),
    ):
        engine = small_engine(tmp_path)
        engine.fit(small_model(post_processor=trained), datamodule=data)
        path = engine.best_model_path
        clear = f"has thresholds of {kind}.*: give the model that"
        with pytest.raises(ValueError, match=clear):
            UninformedStudents.load_from_checkpoint(path, post_processor=used)
        with pytest.raises(ValueError, match=clear):
            engine.predict(small_model(post_processor=used), ckpt_path=path, datamodule=data)


@pytest.mark.usefixtures("narrow_networks")
def test_what_is_not_named_is_that_of_the_checkpoint(tmp_path):
    data = small_data(tmp_path / "data")
    of_the_paper = {"architecture": "paper", "patch_sizes": (33, 65), "teacher": None}
    trained = small_model(**of_the_paper, n_students=2, output_stride=2, shared_layers=1)
    engine = small_engine(tmp_path)
    engine.fit(trained, datamodule=data)
    path = engine.best_model_path
    (expected,) = small_engine(tmp_path).test(trained, datamodule=data)
    model = UninformedStudents(visualizer=False)
    (results,) = small_engine(tmp_path).test(model, datamodule=data, ckpt_path=path)
    assert results == expected
    assert (model.settings.patch_sizes, model.model.output_stride) == ((33, 65), 2)
    coarse = UninformedStudents(output_stride=8, visualizer=False)
    small_engine(tmp_path).predict(coarse, datamodule=data, ckpt_path=path)
    assert (coarse.model.patch_sizes, coarse.model.output_stride) == ((33, 65), 8)


def test_images_of_several_sizes_are_tested_without_aupro_and_that_is_said_before(tmp_path, caplog):
    data = small_data(tmp_path / "data", eval_batch_size=1)
    for folder in ("train/good", "test/good"):
        path = tmp_path / "data" / "dots" / folder / "000.png"
        Image.open(path).resize((48, 40)).save(path)
    normalise = PreProcessor(Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with pytest.warns(UserWarning, match="The images differ in size"):
        (results,) = small_engine(tmp_path).train(small_model(pre_processor=normalise), datamodule=data)
    assert "pixel_AUPRO can't be measured" in caplog.text
    assert math.isnan(results["pixel_AUPRO"])
    assert 0 <= results["pixel_AUROC"] <= 1


@pytest.mark.parametrize(("saved", "resumed"), [(0, 1), (1, 0)])
def test_a_resumed_training_goes_on_with_the_layers_that_it_trained(saved, resumed, tmp_path):
    data = small_data(tmp_path / "data")
    engine = small_engine(tmp_path / "first", max_epochs=1)
    engine.fit(small_model(shared_layers=saved), datamodule=data)
    engine.trainer.save_checkpoint(tmp_path / "saved.ckpt")
    before = torch.load(tmp_path / "saved.ckpt", weights_only=False)["state_dict"]
    model = small_model(shared_layers=resumed)
    small_engine(tmp_path / "second", max_epochs=2).fit(model, datamodule=data, ckpt_path=tmp_path / "saved.ckpt")
    assert model.settings.shared_layers == saved
    for name, value in model.state_dict().items():
        if ".students." in name:
            assert not torch.equal(value, before[name]), name
        if ".teacher." in name:
            assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_a_compiled_model_is_trained_and_tested_as_any(tmp_path):
    states, figures = [], []
    for compiles in (False, True):
        seed_everything(3)
        model = small_model(shared_layers=1, light_jitter=1.0, synthetic_defects=0.5)
        if compiles:
            model.model.compile(backend="aot_eager")
        engine, data = small_engine(tmp_path / str(compiles)), small_data(tmp_path / "data")
        engine.fit(model, datamodule=data)
        states.append(model.model.state_dict())
        figures.append(engine.test(model, datamodule=data)[0])
    torch.testing.assert_close(*states)
    assert figures[0] == pytest.approx(figures[1])
