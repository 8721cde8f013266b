"""Tests of regions against SciPy's labels."""

import numpy as np
import pytest
from scipy import ndimage

from anomalib_students.line.inspection import find_regions


@pytest.mark.parametrize("density", [0.0, 0.1, 0.4, 0.6, 1.0])
def test_regions_are_those_of_scipy(density: float) -> None:
    generator = np.random.default_rng(int(10 * density))
    mask = generator.random((31, 45)) < density
    scores = generator.random(mask.shape)
    labels, n_regions = ndimage.label(mask, structure=np.ones((3, 3)))
    expected = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        expected.append((*box, int((labels == number).sum()), scores[labels == number].max()))
    found = find_regions(mask, scores, mask.shape)
    assert len(found) == n_regions
    assert sorted(map(tuple, found)) == sorted(expected)
    assert [region.area for region in found] == sorted((region.area for region in found), reverse=True)


def test_boxes_are_in_pixels_of_the_image() -> None:
    mask = np.zeros((10, 20), dtype=bool)
    mask[9, 19] = mask[0, 0] = True
    found = find_regions(mask, mask.astype(float), (100, 50))
    assert {region[:5] for region in found} == {(48, 90, 2, 10, 25), (0, 0, 2, 10, 25)}
