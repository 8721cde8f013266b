"""Losses of the teacher's pretraining (eqs. 1 to 5)."""

import torch


def distillation_loss(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance between decoded descriptors and those of the source network (eq. 1).

    Args:
        decoded: Decoded descriptors D(T(p)) of shape ``(B, k)``.
        target: Descriptors P(p) of the source network, of shape ``(B, k)``.

    Returns:
        Squared l2 distance, averaged over the batch; a scalar in ``[0, inf)``.
    """
    return (decoded - target).square().sum(dim=1).mean()


def triplet_distances(
    anchors: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances ``(B,)`` of positives from anchors, and of negatives from the nearer of both (eqs. 3 and 4)."""
    positive_distance = (anchors - positives).square().sum(dim=1)
    negative_distance = torch.minimum(
        (anchors - negatives).square().sum(dim=1), (positives - negatives).square().sum(dim=1)
    )
    return positive_distance, negative_distance


def triplet_loss(
    anchors: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, margin: float = 1.0
) -> torch.Tensor:
    """Metric learning on triplets with in-triplet hard negative mining and anchor swap (eq. 2).

    Args:
        anchors: Descriptors T(p) of shape ``(B, d)``.
        positives: Descriptors T(p+) of shape ``(B, d)``.
        negatives: Descriptors T(p-) of shape ``(B, d)``.
        margin: Margin delta, greater than 0.

    Returns:
        The loss averaged over the batch; a scalar in ``[0, inf)``.

    Example:
        >>> anchors, positives, negatives = torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[1.5]])
        >>> triplet_loss(anchors, positives, negatives)  # the negative is nearer to the positive: 1 + 1 - 0.25
        tensor(1.7500)
    """
    positive_distance, negative_distance = triplet_distances(anchors, positives, negatives)
    return (margin + positive_distance - negative_distance).clamp_min(0).mean()


def compactness_loss(descriptors: torch.Tensor) -> torch.Tensor:
    """Sum of the absolute correlations between different descriptor dimensions over a batch (eq. 5).

    Eq. 5 has no absolute value, so that two dimensions of opposite sign would count as compact.

    Args:
        descriptors: Descriptors of shape ``(B, d)``; for ``B = 1`` there is no correlation, and the loss is 0.

    Returns:
        Sum of ``|c_ij|`` over ``i != j``; a scalar in ``[0, d (d - 1)]``.

    Example:
        >>> compactness_loss(torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]]))
        tensor(2.0000)
    """
    centred = descriptors - descriptors.mean(dim=0)
    # The floor keeps the gradient finite where a dimension is constant over the batch.
    norms = centred.square().sum(dim=0).clamp_min(torch.finfo(centred.dtype).eps).sqrt()
    normalised = centred / norms
    # Autocast would round the correlations to bfloat16, most of which are near zero.
    with torch.autocast(descriptors.device.type, enabled=False):
        correlations = normalised.T @ normalised
    return correlations.abs().sum() - correlations.diagonal().abs().sum()
