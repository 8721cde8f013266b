"""Merged models against models that were trained with all scales together."""

from dataclasses import replace

import pytest
import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from lightning.pytorch import seed_everything

from anomalib_students.model.merge import merge_scales
from anomalib_students.model.settings import PRESETS
from tests.integration.conftest import write_category


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_category(root / "dots")
    return MVTec(root=root, category="dots", train_batch_size=2, eval_batch_size=2, num_workers=0)


def make_model(patch_sizes, **arguments):
    pre_processor = UninformedStudents.configure_pre_processor((48, 48))
    options = {"preset": "paper", "n_students": 2, "output_stride": 8, "lr": 1e-3, **arguments}
    return UninformedStudents(pre_processor=pre_processor, **{**options, "patch_sizes": patch_sizes})


@pytest.fixture(scope="module")
def train(datamodule, tmp_path_factory):
    def train(patch_sizes):
        folder = tmp_path_factory.mktemp("results")
        with pytest.MonkeyPatch.context() as monkeypatch:
            # Lightning leaves its seed in the environment.
            monkeypatch.setenv("PL_GLOBAL_SEED", "0")
            seed_everything(7)
            engine = Engine(default_root_dir=folder, accelerator="cpu", max_epochs=2)
            engine.fit(make_model(patch_sizes), datamodule=datamodule)
        return engine.best_model_path

    return train


@pytest.fixture(scope="module")
def single_scales(train):
    return [train((65,)), train((33,))]


@pytest.fixture
def merged(single_scales):
    return merge_scales([UninformedStudents.load_from_checkpoint(path) for path in single_scales])


@pytest.mark.slow
def test_a_merged_model_is_the_model_trained_with_all_scales(merged, train, datamodule, tmp_path):
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu")
    engine.validate(merged, datamodule=datamodule)
    together = UninformedStudents.load_from_checkpoint(train((33, 65)))
    torch.testing.assert_close(merged.state_dict(), together.state_dict(), rtol=1e-4, atol=1e-5)
    assert merged.model.patch_sizes == (33, 65)
    assert merged.settings == together.settings


def test_a_merged_model_is_saved_as_an_ordinary_checkpoint(merged, datamodule, tmp_path):
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu")
    engine.validate(merged, datamodule=datamodule)
    expected = engine.test(merged, datamodule=datamodule)
    engine.trainer.save_checkpoint(tmp_path / "merged.ckpt")

    restored = UninformedStudents.load_from_checkpoint(tmp_path / "merged.ckpt")
    assert restored.model.patch_sizes == (33, 65)
    assert Engine(default_root_dir=tmp_path, accelerator="cpu").test(restored, datamodule=datamodule) == expected


def test_the_pre_processor_is_kept(merged):
    assert merged.pre_processor.transform.transforms[0].size == [48, 48]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([{"patch_sizes": (33,)}, {"patch_sizes": (33, 65)}], r"Each patch size can be merged once, got .*33"),
        (
            [{"patch_sizes": (33,)}, {"patch_sizes": (65,), "n_students": 1}],
            r"must have the same n_students, got \[2, 1\]",
        ),
        ([{"patch_sizes": (33,)}, {"patch_sizes": (65,), "output_stride": 4}], "must have the same output_stride"),
    ],
)
def test_models_that_do_not_go_together_are_refused(models, message):
    with pytest.raises(ValueError, match=message):
        merge_scales([make_model(**arguments) for arguments in models])


def test_models_may_have_learnt_in_different_ways():
    other = replace(PRESETS["paper"], optimizer="muon", lr=5e-3, lr_schedule="constant")
    models = [make_model((33,)), make_model((65,), preset=other, lr=None)]
    assert merge_scales(models).model.patch_sizes == (33, 65)
