"""Loss of the students (eq. 7)."""

import torch

PAINTED_HARD = 2
"""Factor of the number of hard pixels on images with synthetic defects, which have some that no student can know."""


def squared_distances(students: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared l2 distance between each student's prediction and the teacher's normalised descriptor (eq. 7).

    Args:
        students: Descriptors of M students, of shape ``(M, B, d, h, w)``.
        target: Normalised descriptors of the teacher, of shape ``(B, d, h, w)``.

    Returns:
        Distances of shape ``(M, B, h, w)`` in float32, in ``[0, inf)``.
    """
    return (students.float() - target.float()).square().sum(dim=2)


def regression_loss(distances: torch.Tensor, hard_fraction: float = 1.0) -> torch.Tensor:
    """Mean of the squared distances over batch and pixels (eq. 7), or over the hardest pixels of the batch.

    Most pixels of good images are easy, and soon contribute nothing but noise. The mean of only the hardest ones, as in
    Batzner et al., "EfficientAD" (WACV 2024, Section 3.2), keeps the students at what would otherwise remain a false
    alarm.

    Args:
        distances: Squared distances of M students, of shape ``(M, B, h, w)``.
        hard_fraction: Fraction of all pixels of the batch to average over, in ``(0, 1]``: those with the largest
            distances, chosen for each student. 1 for all, as in eq. 7.

    Returns:
        Sum of the students' losses; a scalar in ``[0, inf)``. No two students share a parameter, so the sum gives each
        the gradient of its own loss.
    """
    distances = distances.flatten(1)
    if hard_fraction < 1:
        distances = distances.topk(max(1, round(hard_fraction * distances.shape[1])), dim=1).values
    return distances.mean(dim=1).sum()


def painted_hard_fraction(hard_fraction: float, painted: float) -> float:
    """Fraction of hard pixels of a batch, of which a fraction of the images has synthetic defects.

    Example:
        >>> painted_hard_fraction(0.125, painted=0.0), painted_hard_fraction(0.125, painted=0.5)
        (0.125, 0.1875)
    """
    return (1 - painted) * hard_fraction + painted * min(1.0, PAINTED_HARD * hard_fraction)
