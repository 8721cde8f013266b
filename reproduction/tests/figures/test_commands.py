"""The commands that draw the figures."""

import numpy as np
import pytest
from PIL import Image

from anomalib_students import files
from anomalib_students.report.results import find_test_images
from reproduction import __main__ as cli
from reproduction.figures import commands
from reproduction.figures.examples import read_examples
from reproduction.figures.scores import score_image


@pytest.fixture
def options(checkpoint, data_root, tmp_path):
    """Options of both commands; later ones replace them."""
    return [
        f"--checkpoint={checkpoint}",
        f"--output={tmp_path / 'new' / 'figure.png'}",
        "--device=cpu",
        "--dpi=50",
        "--data=MVTec",
        f"--data.root={data_root}",
        "--data.category=dots",
        "--data.num_workers=0",
    ]


@pytest.fixture
def run(options, tmp_path, capsys):
    """Run a command and return the picture."""

    def run(command, *more):
        cli.main([command, *options, *more])
        printed = capsys.readouterr().out.replace("\n", " ")
        assert "The figure is in" in printed
        assert "figure.png" in printed.replace(" ", "")
        (output,) = (tmp_path / "new").iterdir()
        return Image.open(output)

    return run


@pytest.fixture
def shown(monkeypatch):
    """The images that the panels show."""
    shown = []
    draw_panels = commands.draw_panels
    monkeypatch.setattr(
        commands, "draw_panels", lambda images, *rest: shown.extend(images) or draw_panels(images, *rest)
    )
    return shown


def test_maps_of_the_data(run, shown, model, datamodule):
    run("maps", "--n_images=2")
    assert [image.name for image in shown] == ["round/000", "square/000"]
    batches = list(read_examples(find_test_images(datamodule).subsample([2, 3])))
    for image, batch in zip(shown, batches, strict=True):
        for name, scores in score_image(model, batch).maps.items():
            np.testing.assert_array_equal(image.maps[name], scores)


def test_maps_of_chosen_test_images_as_columns(run, shown):
    rows, columns = run("maps"), run("maps", "--images=[square/001.png, good/000.png]", "--images_as=columns")
    assert [image.name for image in shown[3:]] == ["good/000", "square/001"]
    assert columns.size[0] != rows.size[0]


def test_maps_of_files_without_data(checkpoint, data_root, tmp_path, shown):
    cli.main(
        [
            "maps",
            f"--checkpoint={checkpoint}",
            f"--output={tmp_path / 'maps.png'}",
            f"--images=[{data_root}/dots/test/good/000.png, {data_root}/dots/test/square]",
            "--dpi=50",
        ]
    )
    assert [(image.name, image.mask) for image in shown] == [
        ("good/000", None),
        ("square/000", None),
        ("square/001", None),
    ]
    assert Image.open(tmp_path / "maps.png").size[0] <= 415


def test_embedding_of_the_data(run, monkeypatch, model, datamodule):
    samplers = {}
    draw_embedding = commands.draw_embedding
    monkeypatch.setattr(
        commands, "draw_embedding", lambda scales, *rest: samplers.update(scales) or draw_embedding(scales, *rest)
    )
    picture = run("embedding", "--n_pixels=2")
    assert picture.size == (415, 360)
    assert list(samplers) == ["p = 33", "p = 65"]
    # Of every eighth pixel of each of the five images, as the model's stride says.
    batches = [score_image(model, batch) for batch in read_examples(find_test_images(datamodule))]
    truth = np.concatenate([image.mask[::8, ::8].ravel() for image in batches])
    assert truth.any()
    for name, sampler in samplers.items():
        scores = np.concatenate([image.maps[name][::8, ::8].ravel() for image in batches])
        for label in (False, True):
            np.testing.assert_allclose(sampler.scores(is_anomalous=label), scores[truth == label], rtol=1e-4, atol=1e-4)
        assert len(sampler.drawn.score) == 4


def test_embedding_of_whole_images(patch_checkpoint, mnist_root, tmp_path, monkeypatch):
    figures, samplers = [], {}
    draw_embedding = commands.draw_embedding

    def draw(scales, what):
        samplers.update(scales)
        figures.append(draw_embedding(scales, what))
        return figures[0]

    monkeypatch.setattr(commands, "draw_embedding", draw)
    output = tmp_path / "embedding.png"
    cli.main(
        [
            "embedding",
            f"--checkpoint={patch_checkpoint}",
            f"--output={output}",
            "--device=cpu",
            "--dpi=50",
            "--n_pixels=5",
            "--data=OneClassMNIST",
            f"--data.root={mnist_root}",
            f"--data.cache_dir={tmp_path / 'cache'}",
            "--data.normal_class=7",
        ]
    )
    assert Image.open(output).size == (415, 360)
    assert list(samplers) == ["p = 17", "p = 33"]
    for sampler in samplers.values():
        assert [len(sampler.scores(is_anomalous=label)) for label in (False, True)] == [6, 12]
        assert sampler.drawn.is_anomalous.tolist() == [False] * 5 + [True] * 5
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles[0].startswith("p = 17: descriptors of 10 images")
    assert titles[1].startswith("p = 17: scores of 18 images (AUROC")


def test_maps_of_a_model_without_maps_are_refused(options, patch_checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="mode patch, which has no maps to draw: try the command embedding"):
        cli.main(["maps", *options, f"--checkpoint={patch_checkpoint}"])
    assert not list(tmp_path.rglob("*.png"))


def test_without_masks_the_label_of_an_image_is_that_of_its_pixels(checkpoint, data_root, tmp_path, monkeypatch):
    samplers = {}
    monkeypatch.setattr(commands, "draw_embedding", lambda scales, *_: samplers.update(scales))
    monkeypatch.setattr(commands, "png_bytes", lambda *_: b"")
    cli.main(
        [
            "embedding",
            f"--checkpoint={checkpoint}",
            f"--output={tmp_path / 'figure.png'}",
            "--data=anomalib.data.Folder",
            "--data.name=dots",
            f"--data.root={data_root}/dots",
            "--data.normal_dir=train/good",
            "--data.normal_test_dir=test/good",
            "--data.abnormal_dir=test/square",
            "--data.val_split_mode=same_as_test",
            "--data.num_workers=0",
        ]
    )
    # Two images of each class, of six by six described pixels.
    for label in (False, True):
        assert len(samplers["p = 33"].scores(is_anomalous=label)) == 72


@pytest.mark.parametrize("command", ["maps", "embedding"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--checkpoint=gone.ckpt", "There is no checkpoint gone.ckpt"),
        ("--checkpoint=pyproject.toml", "pyproject.toml is no checkpoint of UninformedStudents"),
        ("--data.category=screws", "There is no folder .*screws"),
        ("--output=figure.jpg", r"A figure is written to a file named \*\.png, not to figure\.jpg"),
        ("--output=pyproject.toml/figure.png", "pyproject.toml"),
        ("--n_images=0", "n_images must be at least 1, got 0"),
        ("--dpi=0", "dpi must be between 1 and 1200, got 0"),
        ("--device=nonsense", "nonsense"),
    ],
)
def test_a_mistake_is_one_clear_error(command, option, message, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("no checkpoint")
    with pytest.raises(SystemExit, match=f"^reproduction: .*{message}"):
        cli.main([command, *options, option])
    assert not list(tmp_path.rglob("*.png"))


def test_more_than_fits_in_a_figure_is_refused_at_once(options, data_root):
    folder = data_root / "dots" / "test" / "good"
    images = ",".join([str(folder)] * 26)
    with pytest.raises(SystemExit, match="The number of images must be between 1 and 50, got 52"):
        cli.main(["maps", *options[:4], f"--images=[{images}]"])
    with pytest.raises(SystemExit, match="n_pixels must be between 1 and 500, got 501"):
        cli.main(["embedding", *options, "--n_pixels=501"])


def test_maps_of_nothing_are_refused(checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="no images to show"):
        cli.main(["maps", f"--checkpoint={checkpoint}", f"--output={tmp_path / 'maps.png'}"])


def test_data_that_do_not_exist_are_told(options, capsys):
    with pytest.raises(SystemExit):
        cli.main(["maps", *options, "--data=Nonsense"])
    assert "Nonsense" in capsys.readouterr().err


def test_a_failed_write_leaves_the_older_figure(options, tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "figure.png").write_bytes(b"older")
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(SystemExit, match=r"No space left on device: .*figure\.png"):
        cli.main(["maps", *options])
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("figure.png", b"older")]
