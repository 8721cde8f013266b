"""The data module for a folder: what it takes for what, for any tree, script and file type."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models import Padim
from PIL import Image

from anomalib_students.data import Parts
from anomalib_students.data.layout import list_parts

from ..reliability.small import small_config, small_engine, small_model

TREES = {
    "a folder": (["a.png", "b.JPG", "c.tif"], "good good good"),
    "a deep tree": (["2024/05/a.png", "2024/06/a.webp"], "good good"),
    "good alone": (["good/a.png", "good/front/a.png"], "good good"),
    "good and kinds": (["ok/a.png", "Kratzer/a.png", "bad/dent/a.png"], "Kratzer bad/dent good"),
    "other scripts": (["零件/good/a.png", "零件/Beschädigt/ä.png"], "Beschädigt good"),
    "MVTec's": (["train/good/a.png", "test/good/b.png", "test/bent/a.png", "license.png"], "-1 bent good good"),
    "no folder good": (["train/a.png", "test/bent/a.png"], "bent good"),
    "hidden files": (["good/a.png", "good/.b.png", ".ipynb_checkpoints/a.png", "bad/.ipynb_checkpoints/a.png"], "good"),
    "earlier results": (["a.png", "results/Padim/parts/v0/images/good/a.png"], "good"),
}


def write(root, names, size=(8, 6)):
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "grey").save(path)
    return Path(root)


@pytest.mark.parametrize("tree", TREES)
def test_trees_are_understood(tree, tmp_path):
    names, labels = TREES[tree]
    samples = list_parts(write(tmp_path, names))
    found = list(samples[["label", "label_index", "split", "image_path"]].itertuples(index=False))
    assert sorted(label if index >= 0 else "-1" for label, index, _, _ in found) == labels.split()
    for label, index, split, path in found:
        assert index == -1 or (index == 0) == (label == "good")
        assert split == ("test" if index == 1 or "/test/" in path else "train")


MASKS = {
    "MVTec's": ("test/bent/a.png", "ground_truth/bent/a_mask.png"),
    "one folder": ("bad/a.jpg", "masks/a.png"),
    "by kind": ("bad/bent/a.png", "masks/bent/a.png"),
    "within the kind": ("bent/a.png", "bent/gt/a.bmp"),
    "beside the images": ("bent/a.png", "bent/a_mask.png"),
}


@pytest.mark.parametrize("names", MASKS.values(), ids=MASKS)
def test_masks_are_found_by_their_names(names, tmp_path):
    samples = list_parts(write(tmp_path, ["good/a.png", "good/b.png", *names]))
    masks = dict(zip(samples["image_path"], samples["mask_path"], strict=True))
    assert masks.pop(str(tmp_path / names[0])) == str(tmp_path / names[1])
    assert set(masks.values()) == {""}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["masks/bent/a.png"], r"bent/b\.png has no mask"),
        (["masks/bent/a.png", "masks/bent/.ipynb_checkpoints/b.png"], r"bent/b\.png has no mask"),
        (["bent/a_mask.png", "bent/b_mask.png", "masks/c.png"], r"the mask .*masks/c\.png fits no image"),
        (["masks/a.png", "masks/b.png", "dent/a.png"], r"masks/a\.png fits both .*bent/a\.png and .*dent/a\.png"),
    ],
)
def test_masks_that_do_not_fit_are_named(names, said, tmp_path):
    with pytest.raises(ValueError, match=f"Images and masks do not go together: .*{said}"):
        list_parts(write(tmp_path, ["good/a.png", "bent/a.png", "bent/b.png", *names]))


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        (["a.txt"], FileNotFoundError, "There is no image in"),
        (["bad/a.png", "fine/a.png"], ValueError, r"a folder 'bad' in .* none of good parts: .*--data\.good"),
        (["pill/train/good/a.png", "screw/train/good/a.png"], ValueError, r"several tasks in .*pill.*screw"),
        (["test/good/a.png"], ValueError, "no images of good parts to train on"),
    ],
)
def test_what_is_not_clear_is_an_error_in_one_line(names, error, said, tmp_path):
    for name in names:
        if name.endswith("txt"):
            (tmp_path / name).touch()
        else:
            write(tmp_path, [name])
    with pytest.raises(error, match=said) as raised:
        Parts(tmp_path).setup("fit")
    assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone.*--data\.root"):
        Parts(tmp_path / "gone").setup()


def test_good_images_are_drawn_for_the_test_unless_there_are_some(tmp_path, caplog):
    root = write(tmp_path / "parts", [f"fein/{number}.png" for number in range(10)] + ["bent/a.png", "bent/b.png"])
    first, second = Parts(root, good="fein", test_split_ratio=0.3), Parts(root, good="fein", test_split_ratio=0.3)
    for data in (first, second):
        data.setup()
    assert (len(first.train_data), len(first.test_data)) == (7, 5)
    assert list(first.test_data.samples["image_path"]) == list(second.test_data.samples["image_path"])
    assert not {*first.test_data.samples["image_path"]} & {*first.train_data.samples["image_path"]}
    assert first.name == "parts"


def test_batches_have_images_masks_and_labels(tmp_path):
    root = write(tmp_path / "零件", ["good/a.png", "good/b.png", "test/good/c.png"])
    write(root, ["bent/ü.png"])
    mask = np.zeros((6, 8), dtype=np.uint16)
    mask[1, 2] = 1
    (root / "masks").mkdir()
    Image.fromarray(mask).save(root / "masks" / "ü.png")
    data = Parts(root, num_workers=1)
    data.setup()
    (batch,) = data.test_dataloader()
    assert isinstance(batch, ImageBatch)
    assert batch.image.shape == (2, 3, 6, 8)
    assert batch.gt_label.tolist() == [1, 0]
    assert batch.gt_mask.nonzero().tolist() == [[0, 1, 2]]
    # What visualizers iterate over.
    assert [Path(item.image_path).name for item in batch] == ["ü.png", "c.png"]


@pytest.mark.parametrize("n_images", [1, 2, 4])
@pytest.mark.filterwarnings("error:Total length of", "error:.*no logger configured")
@pytest.mark.usefixtures("narrow_networks")
def test_few_good_images_are_trained_on_without_validation_or_test(n_images, tmp_path):
    root = write(tmp_path / "parts", [f"{number}.png" for number in range(n_images)], (64, 64))
    model, data, engine = small_model(teacher=None), Parts(root), small_engine(tmp_path, logger=False)
    assert engine.train(model, datamodule=data) == []
    assert Path(engine.best_model_path).is_file()
    assert not hasattr(data, "val_data")
    threshold = model.post_processor.image_threshold.clone()
    assert not threshold.isnan()
    # As after the joining of models: from the same held-out images.
    model.post_processor.choose(torch.ones(3))
    engine.validate(model, datamodule=Parts(root))
    assert model.post_processor.image_threshold == pytest.approx(threshold)


def test_the_command_finds_out_by_itself(tmp_path, monkeypatch, caplog):
    root = write(tmp_path / "Prüfteile", ["零件/a.png", "零件/.ipynb_checkpoints/a.png", "scratch/b.png"], (64, 64))
    config = small_config(tmp_path / "data", tmp_path / "config.yaml", max_epochs=1)
    monkeypatch.chdir(tmp_path)
    AnomalibCLI(["train", "-c", str(config), "--data", "Parts", "--data.root", str(root), "--data.good", "零件"])
    assert "to train on: 1 good\n  to test on: 1 scratch\n" in caplog.text
    assert (tmp_path / "results/UninformedStudents/Prüfteile/v0/weights/lightning/model.ckpt").is_file()


@pytest.mark.usefixtures("narrow_networks")
def test_all_images_of_a_folder_are_predicted_one_by_one(tmp_path):
    root = write(tmp_path / "new", ["a.png", "good/a.png", "bad/masks/b.png", "bad/b.png"], (64, 64))
    write(root, ["c.png"], (90, 70))
    predictions = small_engine(tmp_path).predict(small_model(teacher=None), datamodule=Parts(root))
    names = [Path(path).relative_to(root).as_posix() for batch in predictions for path in batch.image_path]
    assert names == ["a.png", "bad/b.png", "c.png", "good/a.png"]
    assert all(batch.gt_label is None for batch in predictions)


@pytest.mark.parametrize(("names", "n_validated"), [(["good/a.png", "bad/a.png"], 2), ([], 1)])
def test_models_of_anomalib_validate_because_they_need_it(names, n_validated, tmp_path):
    root = write(tmp_path / "parts", [*(f"good/{number}.png" for number in range(7)), *names], (32, 32))
    data = Parts(root)
    model = Padim(
        layers=["layer1"], pre_trained=False, n_features=10, pre_processor=Padim.configure_pre_processor((32, 32))
    )
    Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False).train(
        model, datamodule=data
    )
    assert len(data.val_data) == n_validated
    assert torch.isfinite(model.post_processor.image_threshold)
