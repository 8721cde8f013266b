"""What a training keeps in its checkpoints."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

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


def test_a_model_whose_training_was_interrupted_has_a_state(tmp_path):
    class Interrupt(Callback):
        def on_train_batch_start(self, *_):
            raise RuntimeError("interrupted")

    model = small_model()
    with pytest.raises(RuntimeError, match="interrupted"):
        small_engine(tmp_path, callbacks=[Interrupt()]).fit(model, datamodule=small_data(tmp_path / "data"))
    assert model.state_dict()


@pytest.mark.parametrize(("saved", "resumed"), [(0, 2), (2, 0)])
def test_a_resumed_training_goes_on_with_the_layers_that_it_trained(saved, resumed, tmp_path):
    data = small_data(tmp_path / "data")
    engine = small_engine(tmp_path / "first", max_epochs=1)
    engine.fit(small_model(shared_layers=saved), datamodule=data)
    engine.trainer.save_checkpoint(tmp_path / "saved.ckpt")
    before = torch.load(tmp_path / "saved.ckpt", weights_only=False)["state_dict"]
    model = small_model(shared_layers=resumed)
    small_engine(tmp_path / "second", max_epochs=2).fit(model, datamodule=data, ckpt_path=tmp_path / "saved.ckpt")
    for name, value in model.state_dict().items():
        if ".students." in name:
            layer = int(name.split(".")[-2])
            assert torch.equal(value, before[name]) == (layer < saved), name
