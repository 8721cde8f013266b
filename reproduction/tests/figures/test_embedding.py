import io

import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, LineCollection
from PIL import Image

from anomalib_students.paper.report import png_bytes
from reproduction.figures import embedding as figure
from reproduction.figures.embedding import draw_embedding, embed
from reproduction.figures.pixels import Pixels, PixelSampler


def make_pixels(n_pixels=12, dim=20, seed=0, offset=3.0):
    """Pixels of which the second half is anomalous: there the students err, differ, and the scores are higher."""
    random = np.random.default_rng(seed)
    is_anomalous = np.arange(n_pixels) >= n_pixels // 2
    teacher = random.normal(size=(n_pixels, dim))
    return Pixels(
        teacher=teacher,
        students=teacher + random.normal(scale=np.where(is_anomalous, 1.0, 0.1)[:, None], size=teacher.shape),
        uncertainty=random.uniform(0.5, 1, n_pixels) + is_anomalous,
        score=random.normal(size=n_pixels) + offset * is_anomalous,
        is_anomalous=is_anomalous,
    )


def make_sampler(**options):
    sampler = PixelSampler(100)
    sampler.add(make_pixels(**options))
    return sampler


def distance_pairs(places, descriptors):
    """Distances in the plane and of the descriptors, pair by pair."""
    for i in range(len(places)):
        for j in range(i):
            yield np.linalg.norm(places[i] - places[j]), np.linalg.norm(descriptors[i] - descriptors[j])


def test_descriptors_in_a_plane_keep_their_distances():
    # A plane that lies askew, and off the origin.
    plane = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 2)))[0].T
    pixels = make_pixels(dim=2)
    pixels = pixels._replace(teacher=pixels.teacher @ plane + 5, students=pixels.students @ plane + 5)
    embedding = embed(pixels)
    places = np.concatenate([embedding.teacher, embedding.students])
    for in_plane, of_descriptors in distance_pairs(places, np.concatenate([pixels.teacher, pixels.students])):
        assert in_plane == pytest.approx(of_descriptors, abs=1e-6)
    assert embedding.stress == pytest.approx(0, abs=1e-6)


def test_the_stress_is_that_of_the_descriptors_distances():
    pixels = make_pixels()
    embedding = embed(pixels)
    places = np.concatenate([embedding.teacher, embedding.students])
    pairs = list(distance_pairs(places, np.concatenate([pixels.teacher, pixels.students])))
    error = sum((in_plane - of_descriptors) ** 2 for in_plane, of_descriptors in pairs)
    expected = (error / sum(in_plane**2 for in_plane, _ in pairs)) ** 0.5
    # It is measured before the last step of the iteration.
    assert embedding.stress == pytest.approx(expected, rel=0.01)
    assert embedding.stress > 0.05


def test_the_embedding_is_the_same_whatever_was_drawn_before():
    np.random.seed(1)  # noqa: NPY002  (scikit-learn's)
    first = embed(make_pixels())
    np.random.seed(2)  # noqa: NPY002
    for one, other in zip(first, embed(make_pixels()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_single_pixel_cannot_be_embedded():
    with pytest.raises(ValueError, match="at least two points, got 1"):
        embed(make_pixels(n_pixels=1))


def test_lines_lead_from_the_teacher_to_circles_as_large_as_the_uncertainty(monkeypatch):
    diameters = []

    class Circles(EllipseCollection):
        def __init__(self, widths, heights, *args, **kwargs):
            np.testing.assert_array_equal(widths, heights)
            # Before matplotlib 3.10 there was no way to ask for them.
            diameters.extend(widths)
            super().__init__(widths, heights, *args, **kwargs)

    monkeypatch.setattr(figure, "EllipseCollection", Circles)
    pixels = make_pixels()
    embedding = embed(pixels)
    axes = draw_embedding({"p = 33": make_sampler()}).axes[0]
    # The sampler draws them in another order.
    drawn = make_sampler().drawn
    order = [int(np.flatnonzero(pixels.score.astype(np.float32) == score)[0]) for score in drawn.score]
    circles = [one for one in axes.collections if isinstance(one, EllipseCollection)]
    lines = [one for one in axes.collections if isinstance(one, LineCollection)]
    centres = np.concatenate([np.asarray(one.get_offsets()) for one in circles])
    ends = np.concatenate([one.get_segments() for one in lines])
    np.testing.assert_allclose(diameters, 2 * pixels.uncertainty[order] ** 0.5, rtol=1e-6)
    np.testing.assert_array_equal(ends[:, 1], centres)
    # Up to what the order of the points changes in the iteration.
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    expected = np.linalg.norm(embedding.teacher - embedding.students, axis=1)[order]
    np.testing.assert_allclose(lengths, expected, rtol=0.05, atol=0.05)


def test_the_histogram_has_all_pixels_and_shows_the_auroc():
    sampler = make_sampler(offset=1.0)
    normal, anomalous = sampler.scores(is_anomalous=False), sampler.scores(is_anomalous=True)
    axes = draw_embedding({"p = 33": sampler}).axes[1]
    auroc = np.mean([high > low for high in anomalous for low in normal])
    assert 0 < auroc < 1
    assert f"AUROC {auroc:.3f}" in axes.get_title()
    areas = [sum(bar.get_width() * bar.get_height() for bar in bars) for bars in axes.containers]
    assert areas == pytest.approx([1, 1])


@pytest.mark.parametrize("is_anomalous", [False, True])
def test_one_class_alone_is_drawn(is_anomalous):
    pixels = make_pixels()
    sampler = PixelSampler(100)
    sampler.add(Pixels(*(values[pixels.is_anomalous == is_anomalous] for values in pixels)))
    figure = draw_embedding({"p = 33": sampler})
    assert "AUROC" not in figure.axes[1].get_title()
    assert png_bytes(figure, dpi=50)


@pytest.mark.parametrize("n_scales", [1, 2])
def test_the_picture_fits_the_width(n_scales):
    scales = {f"p = {number}": make_sampler() for number in range(n_scales)}
    assert Image.open(io.BytesIO(png_bytes(draw_embedding(scales), dpi=50))).size == (415, 180 * n_scales)
