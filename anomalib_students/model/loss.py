"""Loss of the students (eq. 7)."""

import torch

__all__ = ["regression_loss"]


def regression_loss(students: torch.Tensor, target: torch.Tensor, hard_fraction: float = 1.0) -> torch.Tensor:
    """Squared distance between the students' predictions and the teacher's normalised descriptors (eq. 7).

    Most pixels of good parts are easy, and soon contribute nothing but noise. The mean of the hardest ones alone, as in
    Batzner et al., "EfficientAD" (WACV 2024, Section 3.2), keeps the students at what would otherwise remain a false
    alarm.

    Args:
        students: Descriptors of M students, of shape ``(M, B, d, h, w)``.
        target: Normalised descriptors of the teacher, of shape ``(B, d, h, w)``.
        hard_fraction: Part of the pixels to average over, in ``(0, 1]``: those with the largest distances, chosen for
            each student. 1 for all, as in eq. 7.

    Returns:
        Squared l2 distance averaged over batch and pixels and summed over the students; a scalar in ``[0, inf)``. No
        two students share a parameter, so the sum gives each the gradient of its own loss.
    """
    distances = (students.float() - target.float()).square().sum(dim=2).flatten(1)
    if hard_fraction < 1:
        distances = distances.topk(max(1, round(hard_fraction * distances.shape[1])), dim=1).values
    return distances.mean(dim=1).sum()
