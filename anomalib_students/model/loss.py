"""Loss of the students (eq. 7)."""

import torch

__all__ = ["PAINTED_HARD", "regression_loss", "squared_distances"]

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


def regression_loss(
    distances: torch.Tensor, hard_fraction: float = 1.0, is_painted: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over batch and pixels of the squared distances (eq. 7), or over the hardest of all pixels of the batch.

    Most pixels of good parts are easy, and soon contribute nothing but noise. The mean of only the hardest ones, as in
    Batzner et al., "EfficientAD" (WACV 2024, Section 3.2), keeps the students at what would otherwise remain a false
    alarm.

    Args:
        distances: Squared distances of M students, of shape ``(M, B, h, w)``.
        hard_fraction: Fraction of the pixels to average over, in ``(0, 1]``: those with the largest distances, chosen
            for each student from the whole batch. 1 for all, as in eq. 7.
        is_painted: Which images have synthetic defects, of shape ``(B,)``. Each adds :data:`PAINTED_HARD` times as many
            hard pixels as one without. By default, none has.

    Returns:
        Sum of the students' losses; a scalar in ``[0, inf)``. No two students share a parameter, so the sum gives each
        the gradient of its own loss.
    """
    painted = 0.0 if is_painted is None else float(is_painted.float().mean())
    fraction = (1 - painted) * hard_fraction + painted * min(1.0, PAINTED_HARD * hard_fraction)
    distances = distances.flatten(1)
    if fraction < 1:
        distances = distances.topk(max(1, round(fraction * distances.shape[1])), dim=1).values
    return distances.mean(dim=1).sum()
