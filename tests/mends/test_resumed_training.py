"""The test at the end of a resumed training."""

from pathlib import Path

import torch

from ..reliability.small import small_data, small_engine, small_model


def test_a_resumed_training_tests_what_it_has_trained(tmp_path: Path) -> None:
    datamodule = small_data(tmp_path / "data")
    engine = small_engine(tmp_path / "results", max_epochs=1)
    engine.fit(small_model(), datamodule=datamodule)
    model = small_model()
    resumed = small_engine(tmp_path / "results", max_epochs=2)
    resumed.train(model, datamodule=datamodule, ckpt_path=engine.best_model_path)
    (written,) = (tmp_path / "results").rglob("v1/weights/lightning/model.ckpt")
    student = "model.ensembles.p17.students.0.convolutions.0.weight"
    assert torch.equal(model.state_dict()[student], torch.load(written, weights_only=False)["state_dict"][student])
