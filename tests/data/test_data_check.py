"""What is wrong with a file of a data set is said before the first step, with the file's name."""

from types import SimpleNamespace

import pytest
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from pandas import DataFrame
from PIL import Image

from anomalib_students.data import MVTec, data_check
from anomalib_students.data.data_check import check_data
from anomalib_students.data.dataset import ImageFileDataset
from anomalib_students.image_files import check_image

from ..integration.conftest import write_category
from ..reliability.pictures import DAMAGED, SIDE, SOUND, write_inspection, write_mask, write_picture
from ..reliability.small import small_engine, small_model

pytestmark = [
    pytest.mark.usefixtures("narrow_networks"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture
def category(tmp_path):
    return write_inspection(tmp_path / "data" / "part")


@pytest.fixture
def command(category, tmp_path, monkeypatch):
    """Call a command of anomalib's on the category, whose steps are none."""
    model = UninformedStudents(teacher=None, pre_processor=False, visualizer=False)
    for step in ("on_fit_start", "training_step", "validation_step", "test_step", "predict_step"):
        monkeypatch.setattr(model, step, lambda *_, **__: pytest.fail("the first step is too late"))

    def command(name):
        engine = Engine(
            default_root_dir=tmp_path / "results",
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
        )
        if name == "predict":
            engine.predict(model, data_path=category / "test")
        else:
            getattr(engine, name)(model, datamodule=MVTec(root=category.parent, category=category.name, num_workers=0))

    return command


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_found_without_decoding_all(name, tmp_path):
    path = write_picture(name, tmp_path / "picture")
    with pytest.raises(ValueError, match=rf"Cannot read .*{path.name} as an image"):
        check_image(path)


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_pass(name, tmp_path):
    assert check_image(write_picture(name, tmp_path / "picture"))[:2] == (SIDE, SIDE)


def test_a_jpeg_with_something_behind_its_end_is_decoded(tmp_path):
    """Pillow reads it, and so it passes."""
    path = write_picture("rgb.jpg", tmp_path / "picture")
    path.write_bytes(path.read_bytes() + b"a note of the camera")
    assert check_image(path)[:2] == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("damaged", "commands"),
    [
        ("train/good/000.png", ["fit"]),
        ("train/good/001.png", ["fit"]),
        ("test/good/000.png", ["fit", "validate", "test", "predict"]),
        ("test/bent/000.png", ["fit", "validate", "test", "predict"]),
        ("ground_truth/bent/001_mask.png", ["fit", "validate", "test"]),
    ],
)
def test_every_command_names_a_damaged_file_before_its_first_step(damaged, commands, command, category):
    """One of the two training images is held out: both are checked."""
    write_picture("truncated.png", (category / damaged).with_suffix(""))
    for name in commands:
        with pytest.raises(ValueError, match=rf"Cannot read .*{damaged} as an image"):
            command(name)


def test_masks_of_another_size_than_their_image_are_named(command, category):
    write_mask(category / "ground_truth/bent/000_mask.png", width=30)
    with pytest.raises(
        ValueError, match=r"The mask .*000_mask\.png has 30x40 pixels, its image .*bent.000\.png 40x40\.$"
    ):
        command("fit")


def unlabelled(*paths):
    rows = [{"image_path": str(path), "label": "", "label_index": -1, "mask_path": "", "split": ""} for path in paths]
    return SimpleNamespace(train_data=ImageFileDataset(DataFrame(rows)))


def test_the_first_of_many_problems_are_named_in_one_line(tmp_path):
    paths = [write_picture("empty.png", tmp_path / f"{number}") for number in range(8)]
    with pytest.raises(ValueError, match=r"0\.png .*4\.png .* And 3 more\.$") as error:
        check_data(unlabelled(*paths))
    assert "\n" not in str(error.value)


def test_files_are_checked_once_unless_they_change(tmp_path, monkeypatch):
    path = write_picture("rgb.png", tmp_path / "picture")
    checked = []
    monkeypatch.setattr(data_check, "check_image", lambda path: checked.append(path) or check_image(path))
    for _ in range(2):
        check_data(unlabelled(path))
    assert len(checked) == 1
    write_picture("truncated.png", path.with_suffix(""))
    with pytest.raises(ValueError, match="Cannot read"):
        check_data(unlabelled(path))


def test_test_images_that_validate_are_counted(tmp_path):
    """anomalib's Folder takes half of them by default."""
    write_category(tmp_path / "part")
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/square", "normal_test_dir": "test/good"}
    data = Folder("part", root=tmp_path / "part", num_workers=0, **folders)
    with pytest.warns(UserWarning, match=r"^2 of the test images became validation images; the test has the other 2\."):
        small_engine(tmp_path).fit(small_model(teacher=None), datamodule=data)


@pytest.mark.parametrize("datamodule", [MVTec, MVTecAD])
def test_what_anomalib_would_misread_is_said(datamodule, category, recwarn):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (SIDE, SIDE)).save(category / "train/good/000.png", exif=exif)
    data = datamodule(root=category.parent, category=category.name, num_workers=0)
    data.setup()
    check_data(data)
    said = any("train/good/000.png (and 0 more) is to be turned" in str(warning.message) for warning in recwarn)
    assert said == (datamodule is MVTecAD)
    write_picture("grey16.png", category / "train/good/001")
    if datamodule is MVTec:
        check_data(data)
    else:
        with pytest.raises(ValueError, match=r"would read .*001\.png, .* as white: use --data Parts"):
            check_data(data)
