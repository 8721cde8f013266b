"""What is wrong with a file of a data set is said before the first step, with the file's name."""

import pytest
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from PIL import Image

from anomalib_students.data import MVTec, data_check
from anomalib_students.data.data_check import Pair, check_data, check_files
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
    model = UninformedStudents(
        patch_sizes=(33,), n_students=1, teacher=None, descriptor_dim=4, pre_processor=False, visualizer=False
    )
    for step in ("training_step", "validation_step", "test_step", "predict_step", "_normalise_descriptors"):
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


def test_the_first_of_many_problems_are_named_in_one_line(tmp_path):
    paths = [write_picture("empty.png", tmp_path / f"{number}") for number in range(8)]
    with pytest.raises(ValueError, match=r"0\.png .*4\.png .* And 3 more\.$") as error:
        check_files([Pair(str(path)) for path in paths])
    assert "\n" not in str(error.value)


def test_files_are_checked_once_unless_they_change(tmp_path, monkeypatch):
    path = write_picture("rgb.png", tmp_path / "picture")
    checked = []
    monkeypatch.setattr(data_check, "check_image", lambda path: checked.append(path) or check_image(path))
    for _ in range(2):
        check_files([Pair(str(path))])
    assert len(checked) == 1
    write_picture("truncated.png", path.with_suffix(""))
    with pytest.raises(ValueError, match="Cannot read"):
        check_files([Pair(str(path))])


@pytest.mark.parametrize("mode", ["from_test", "same_as_test"])
def test_test_images_that_validate_are_counted(mode, tmp_path, caplog):
    """anomalib takes half of them by default."""
    write_category(tmp_path / "part")
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/square", "normal_test_dir": "test/good"}
    data = Folder("part", root=tmp_path / "part", val_split_mode=mode, num_workers=0, **folders)
    small_engine(tmp_path).train(small_model(teacher=None), datamodule=data)
    said = [record.getMessage() for record in caplog.records if "became validation images" in record.getMessage()]
    assert len(said) == (mode == "from_test")
    for message in said:
        taken, left = data.val_data.samples["label_index"], data.test_data.samples["label_index"]
        assert len(taken) + len(left) == 4
        assert f"Of the test images, {(taken == 0).sum()} good and {(taken == 1).sum()} anomalous ones" in message
        assert f"has the other {(left == 0).sum()} good and {(left == 1).sum()} anomalous ones" in message


@pytest.mark.parametrize("datamodule", [MVTec, MVTecAD])
def test_what_anomalib_would_misread_is_said(datamodule, category, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (SIDE, SIDE)).save(category / "train/good/000.png", exif=exif)
    data = datamodule(root=category.parent, category=category.name, num_workers=0)
    data.setup()
    check_data(data)
    assert ("train/good/000.png (and 0 more) is to be turned" in caplog.text) == (datamodule is MVTecAD)
    write_picture("grey16.png", category / "train/good/001")
    if datamodule is MVTec:
        check_data(data)
    else:
        with pytest.raises(ValueError, match=r"would read .*001\.png, .* as white: use --data Parts"):
            check_data(data)


def test_all_data_are_checked_before_a_training_is_begun_elsewhere(category):
    datamodule = MVTec(root=category.parent, category=category.name, num_workers=0)
    datamodule.setup()
    assert check_data(datamodule) == 5
    (category / "test/bent/000.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="Cannot read"):
        check_data(datamodule)
