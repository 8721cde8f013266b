"""The figures, and the commands that draw them."""

import numpy as np
import pytest
import torch
from anomalib.data import MVTec
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from matplotlib.collections import EllipseCollection, LineCollection
from PIL import Image
from torchvision.transforms.v2.functional import resize

from reproduction.__main__ import main
from reproduction.figures import embedding, maps
from reproduction.figures.embedding import draw_embedding, embed
from reproduction.figures.panels import ScoredImage, draw_panels
from reproduction.one_class import tables
from reproduction.one_class.data import OneClass
from reproduction.one_class.students import PatchStudents
from tests.integration.conftest import write_category

SCALES = ("p = 17", "p = 33", "multi-scale")


def make_image(seed=0, has_mask=True):
    random = np.random.default_rng(seed)
    mask = np.zeros((24, 32), bool)
    mask[5:9, 6 + seed : 12 + seed] = True
    scored = {name: random.normal(scale=1 + index, size=mask.shape) + 9 * mask for index, name in enumerate(SCALES)}
    return ScoredImage(f"crack/{seed:03}", random.random((24, 32, 3)), mask if has_mask else None, scored)


@pytest.fixture
def images():
    return [make_image(seed) for seed in range(4)]


def pictures_of(figure, n_columns):
    """Axes of the pictures, by row and column."""
    pictures = [axes for axes in figure.axes if axes.images]
    return np.reshape(pictures, (-1, n_columns))


def test_a_column_shows_input_ground_truth_and_maps(images):
    grid = pictures_of(draw_panels(images), 4)
    assert [axes.get_title() for axes in grid[0]] == [image.name for image in images]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["input", "ground truth", *SCALES]
    for column, image in zip(grid.T, images, strict=True):
        np.testing.assert_array_equal(column[0].images[0].get_array(), image.image)
        np.testing.assert_array_equal(column[1].images[1].get_array()[..., 3] > 0, image.mask)
        for axes, scores in zip(column[2:], image.maps.values(), strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), scores)
            (outline,) = axes.collections
            corners = outline.get_paths()[0].vertices
            # Half a pixel around the first and the last pixel of the mask.
            rows, columns = (np.flatnonzero(image.mask.any(axis=1 - axis)) for axis in (0, 1))
            np.testing.assert_array_equal(corners.min(axis=0), [columns[0] - 0.5, rows[0] - 0.5])
            np.testing.assert_array_equal(corners.max(axis=0), [columns[-1] + 0.5, rows[-1] + 0.5])


def test_the_maps_of_a_scale_share_their_colours_if_they_are_to(images):
    shared, own = (pictures_of(draw_panels(images, shared_colours=choice), 4)[2:] for choice in (True, False))
    for scale, together, apart in zip(SCALES, shared, own, strict=True):
        highest = [np.percentile(image.maps[scale], 99.9) for image in images]
        assert {axes.images[0].get_clim() for axes in together} == {(0, max(highest))}
        assert [axes.images[0].get_clim()[1] for axes in apart] == highest


def test_maps_without_images_show_nothing_of_the_data(images):
    grid = pictures_of(draw_panels(images, show_images=False), 4)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == list(SCALES)
    assert not any(axes.collections for axes in grid.flat)


def test_an_image_without_mask_stands_beside_others_or_alone():
    both, alone = (draw_panels([*rest, make_image(1, has_mask=False)]) for rest in ([make_image(0)], []))
    assert len(pictures_of(both, 2)) == 5
    assert len(pictures_of(alone, 1)) == 4


@pytest.mark.parametrize("n_images", [1, 6])
def test_the_picture_fits_the_width(n_images, tmp_path):
    scored = [
        make_image(index, SCALES[:1])._replace(maps={"p = 17": np.full((24, 32), -1.0)}) for index in range(n_images)
    ]
    draw_panels(scored).savefig(tmp_path / "maps.png", dpi=50)
    assert Image.open(tmp_path / "maps.png").size[0] <= 415


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a category that has the defects ``round`` and ``square``, and the checkpoint of a model."""
    folder = tmp_path_factory.mktemp("place")
    category = folder / "dots"
    write_category(category, n_train=1)
    for kind, name in (("test", "000.png"), ("ground_truth", "000_mask.png")):
        (category / kind / "round").mkdir()
        Image.open(category / kind / "square" / name).rotate(90).save(category / kind / "round" / name)
    small = {"n_students": 2, "teacher": None, "descriptor_dim": 84}
    model = UninformedStudents(**small, image_size=48, visualizer=False)
    engine = Engine(default_root_dir=folder / "engine", accelerator="cpu", logger=False)
    engine.test(model, datamodule=MVTec(root=folder, category="dots", num_workers=0))
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return folder


@pytest.fixture
def shown(monkeypatch):
    """The images that the panels show."""
    shown = []
    monkeypatch.setattr(maps, "draw_panels", lambda images, *rest: shown.extend(images) or draw_panels(images, *rest))
    return shown


def draw_maps(place, *options):
    data = ["--data=MVTec", f"--data.root={place}", "--data.category=dots", "--data.num_workers=0"]
    main(["maps", f"--checkpoint={place}/model.ckpt", "--output=new/maps.png", "--dpi=50", *data, *options])


def test_maps_of_the_data(place, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_maps(place, "--n_images=2")
    assert Image.open(tmp_path / "new" / "maps.png").size[0] <= 415
    assert [image.name for image in shown] == ["round/000", "square/000"]
    model = UninformedStudents.load_from_checkpoint(place / "model.ckpt").eval()
    datamodule = MVTec(root=place, category="dots", num_workers=0)
    datamodule.setup()
    item = datamodule.test_data[2]
    seen = resize(item.image[None], [48, 48], antialias=True)
    np.testing.assert_allclose(shown[0].image, seen[0].permute(1, 2, 0), atol=1e-6)
    assert shown[0].mask.shape == (48, 48)
    expected = model.model(model.pre_processor.transform(item.image[None])).anomaly_map[0, 0]
    found = shown[0].maps
    assert list(found) == ["p = 83", "p = 167", "multi-scale"]
    np.testing.assert_allclose(found["multi-scale"], expected, rtol=1e-4, atol=1e-4)
    of_scales = (found["p = 83"] + 0.5 * found["p = 167"]) / 1.5
    np.testing.assert_allclose(of_scales, expected, rtol=1e-4, atol=1e-4)


def test_maps_of_named_images(place, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_maps(place, "--images=[square/001.png, good/000.png]")
    assert [image.name for image in shown] == ["good/000", "square/001"]
    with pytest.raises(SystemExit, match=r"\d test images are named 000\.png: name them as crack"):
        draw_maps(place, "--images=[000.png]")
    with pytest.raises(SystemExit, match=r"0 test images are named crack/000.png: .* in good, round, square"):
        draw_maps(place, "--images=[crack/000.png]")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--checkpoint=gone.ckpt", "There is no checkpoint gone.ckpt"),
        ("--data.category=screws", "There are no images in .*screws"),
        ("--output=figure.jpg", r"A figure is written to a file named \*\.png, not to figure\.jpg"),
    ],
)
def test_a_mistake_is_one_clear_error(option, message, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^reproduction: .*{message}"):
        draw_maps(place, option)
    assert not list(tmp_path.rglob("*.png"))


def test_descriptors_in_a_plane_keep_their_distances():
    # A plane that lies askew, and off the origin.
    random = np.random.default_rng(1)
    plane = np.linalg.qr(random.normal(size=(20, 2)))[0].T
    teacher, students = (random.normal(size=(6, 2)) @ plane + 5 for _ in range(2))
    found = embed(teacher, students)
    places, descriptors = np.concatenate(found[:2]), np.concatenate([teacher, students])
    for i, j in np.ndindex(12, 12):
        distance = np.linalg.norm(descriptors[i] - descriptors[j])
        assert np.linalg.norm(places[i] - places[j]) == pytest.approx(distance, abs=1e-6)
    assert found.stress == pytest.approx(0, abs=1e-6)


@pytest.fixture
def students():
    model = PatchStudents(tables.load_bundled_teacher(), 2)
    model.std.fill_(3.0)
    return model


def test_lines_lead_from_the_teacher_to_circles_as_large_as_the_uncertainty(students):
    images = OneClass(torch.empty(0), torch.randn(12, 3, 33, 33), torch.arange(12) % 3 == 0)
    left, right = draw_embedding(students, images, n_images=3).axes
    circles = [one for one in left.collections if isinstance(one, EllipseCollection)]
    lines = [one for one in left.collections if isinstance(one, LineCollection)]
    chosen = torch.tensor([1, 2, 4, 0, 3, 6])
    outputs, target = students.describe(images.test[chosen])
    outputs, target = outputs.detach().flatten(2).numpy(), target.flatten(1).numpy()
    points = embed(target, outputs.mean(axis=0))
    ends = np.concatenate([one.get_segments() for one in lines])
    np.testing.assert_allclose(ends, np.stack([points.teacher, points.students], axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([one.get_offsets() for one in circles]), ends[:, 1], rtol=1e-6)
    spread = np.sqrt(((outputs - outputs.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    np.testing.assert_allclose(np.concatenate([one._widths for one in circles]), spread, rtol=1e-4)

    scores = students.score(images.test)
    pairs = scores[images.is_anomalous][:, None] > scores[~images.is_anomalous]
    assert f"12 images (AUROC {pairs.float().mean():.3f})" in right.get_title()


def test_the_embedding_of_digits(students, mnist_root, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(embedding, "draw_embedding", lambda *given: seen.append(given) or draw_embedding(*given))
    torch.save(students.state_dict(), tmp_path / "students.pt")
    files = [f"--students={tmp_path}/students.pt", f"--output={tmp_path}/embedding.png", "--dpi=50"]
    main(["embedding", *files, "--data=mnist", f"--root={mnist_root}", "--normal_class=7"])
    assert Image.open(tmp_path / "embedding.png").size == (415, 180)
    ((model, images, n_images),) = seen
    assert (len(model.students), len(images.test), int(images.is_anomalous.sum()), n_images) == (2, 18, 12, 5)
    assert torch.equal(model.score(images.test), students.score(images.test))
