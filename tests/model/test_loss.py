"""The equation against the paper's formula, written with loops in double precision."""

import numpy as np
import pytest
import torch

from anomalib_students.model.loss import painted_hard_fraction, regression_loss, squared_distances


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def equation_7(student, target):
    """One student's loss on one image, of shape (d, h, w)."""
    _, height, width = student.shape
    total = 0.0
    for r in range(height):
        for c in range(width):
            total += np.linalg.norm(student[:, r, c] - target[:, r, c]) ** 2
    return total / (width * height)


@pytest.mark.parametrize(
    ("n_students", "batch", "dim", "height", "width"),
    [(1, 1, 1, 1, 1), (1, 2, 3, 4, 5), (3, 1, 2, 3, 1), (2, 3, 4, 2, 3)],
)
def test_regression_loss_is_equation_7_averaged_over_images_and_summed_over_students(
    n_students, batch, dim, height, width
):
    students, target = normal(n_students, batch, dim, height, width), normal(batch, dim, height, width, seed=1)
    expected = 0.0
    for student in students:
        expected += sum(equation_7(student[image], target[image]) for image in range(batch)) / batch
    loss = regression_loss(squared_distances(torch.from_numpy(students), torch.from_numpy(target)))
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_distances_are_computed_in_single_precision():
    students, target = torch.randn(2, 1, 4, 3, 3, dtype=torch.bfloat16), torch.randn(1, 4, 3, 3, dtype=torch.bfloat16)
    distances = squared_distances(students, target)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, squared_distances(students.float(), target.float()))


@pytest.mark.parametrize(
    ("hard_fraction", "painted", "n_hard"),
    [
        (0.1, (False, False), 2),
        (0.5, (False, False), 12),
        (0.001, (False, False), 1),
        # One painted image adds twice as many as one without defects, and leaves the number of the other.
        (0.25, (True, False), 3 + 6),
        (0.25, (True, True), 12),
        (0.75, (True, False), 9 + 12),
    ],
)
def test_hard_loss_is_the_mean_over_the_hardest_pixels_of_the_batch(hard_fraction, painted, n_hard):
    distances = torch.from_numpy(normal(3, 2, 3, 4)).square()
    expected = sum(np.sort(of_student.ravel())[-n_hard:].mean() for of_student in distances.numpy())
    loss = regression_loss(distances, painted_hard_fraction(hard_fraction, sum(painted) / len(painted)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
