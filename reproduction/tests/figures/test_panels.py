import io

import numpy as np
import pytest
from PIL import Image

from anomalib_students.paper.report import png_bytes
from reproduction.figures.panels import ScoredImage, draw_panels

SCALES = ("p = 17", "p = 33", "multi-scale")


def make_image(seed=0, scales=SCALES, has_mask=True):
    random = np.random.default_rng(seed)
    mask = np.zeros((24, 32), bool)
    mask[5:9, 6 + seed : 12 + seed] = True
    maps = {name: random.normal(scale=1 + index, size=mask.shape) + 9 * mask for index, name in enumerate(scales)}
    return ScoredImage(f"crack/{seed:03}", random.random((24, 32, 3)), mask if has_mask else None, maps)


@pytest.fixture
def images():
    return [make_image(seed) for seed in range(4)]


def cells(figure):
    """The axes of the pictures, and those of the colour bars."""
    pictures = [axes for axes in figure.axes if axes.images]
    return pictures, [axes for axes in figure.axes if not axes.images]


def labels(figure):
    pictures, _ = cells(figure)
    return [axes.get_title() for axes in pictures if axes.get_title()], [
        axes.get_ylabel() for axes in pictures if axes.get_ylabel()
    ]


def picture_of(figure, dpi=50):
    return Image.open(io.BytesIO(png_bytes(figure, dpi)))


def test_a_row_shows_input_ground_truth_and_maps(images):
    figure = draw_panels(images)
    pictures, bars = cells(figure)
    assert labels(figure) == (["input", "ground truth", *SCALES], [image.name for image in images])
    assert len(bars) == len(SCALES)
    for row, image in zip(np.reshape(pictures, (4, 5)), images, strict=True):
        np.testing.assert_array_equal(row[0].images[0].get_array(), image.image)
        np.testing.assert_array_equal(row[1].images[1].get_array()[..., 3] > 0, image.mask)
        for cell, scores in zip(row[2:], image.maps.values(), strict=True):
            np.testing.assert_array_equal(cell.images[0].get_array(), scores)


def test_a_column_shows_the_same(images):
    figure = draw_panels(images, images_as="columns")
    assert labels(figure) == ([image.name for image in images], ["input", "ground truth", *SCALES])
    for row, heading in zip(np.reshape(cells(figure)[0], (5, 4))[2:], SCALES, strict=True):
        for cell, image in zip(row, images, strict=True):
            np.testing.assert_array_equal(cell.images[0].get_array(), image.maps[heading])


def test_the_maps_of_a_scale_have_the_same_colours(images):
    columns = np.reshape(cells(draw_panels(images))[0], (4, 5)).T[2:]
    highest = []
    for column, heading in zip(columns, SCALES, strict=True):
        limits = {cell.images[0].get_clim() for cell in column}
        (limit,) = limits
        assert limit == (0, max(np.percentile(image.maps[heading], 99.9) for image in images))
        highest.append(limit[1])
    assert len(set(highest)) == 3


def test_a_map_has_colours_of_its_own_where_they_are_not_shared(images):
    pictures, bars = cells(draw_panels(images, shared_colours=False))
    assert not bars
    for row, image in zip(np.reshape(pictures, (4, 5))[:, 2:], images, strict=True):
        for cell, scores in zip(row, image.maps.values(), strict=True):
            assert cell.images[0].get_clim() == (0, np.percentile(scores, 99.9))


def test_the_outline_of_the_defect_is_drawn_in_the_maps(images):
    for cell in np.reshape(cells(draw_panels(images[:1]))[0], (1, 5))[0, 2:]:
        (outline,) = cell.collections
        (low, left), (high, right) = (
            outline.get_paths()[0].vertices.min(axis=0),
            outline.get_paths()[0].vertices.max(axis=0),
        )
        # Half a pixel around the first and the last pixel of the mask.
        assert (low, left, high, right) == (5.5, 4.5, 11.5, 8.5)


def test_without_ground_truth_there_is_no_column_for_it():
    figure = draw_panels([make_image(has_mask=False)])
    assert labels(figure)[0] == ["input", *SCALES]
    assert not any(axes.collections for axes in cells(figure)[0])


def test_an_image_without_mask_stands_beside_others():
    assert picture_of(draw_panels([make_image(0), make_image(1, has_mask=False)])).size[0] <= 415


def test_the_maps_alone_show_nothing_of_the_data(images):
    figure = draw_panels(images, show_images=False)
    assert labels(figure)[0] == list(SCALES)
    assert not any(axes.collections for axes in cells(figure)[0])


def test_maps_below_the_mean_can_be_drawn():
    image = make_image(scales=["p = 33"])
    assert picture_of(draw_panels([image._replace(maps={"p = 33": np.full((24, 32), -1.0)})])).size


@pytest.mark.parametrize("images_as", ["rows", "columns"])
@pytest.mark.parametrize(("n_images", "scales"), [(1, SCALES[:1]), (6, SCALES)])
def test_the_picture_fits_the_width(n_images, scales, images_as):
    figure = draw_panels([make_image(index, scales) for index in range(n_images)], images_as=images_as)
    picture = picture_of(figure)
    np.testing.assert_allclose(picture.size, figure.get_size_inches() * 50, atol=1)
    assert picture.size[0] <= 415
