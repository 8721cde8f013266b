"""Distances between many vectors, as products of matrices that every exporter knows."""

import torch

__all__ = ["REFERENCES_AT_ONCE", "nearest_distance", "squared_distances"]

REFERENCES_AT_ONCE = 2048
"""References that vectors are compared with at once, which bounds the memory."""


def squared_distances(vectors: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distance of each vector ``(N, k)`` from each reference ``(M, k)``, of shape ``(N, M)``."""
    # |v - r|^2 = |v|^2 + |r|^2 - 2 v r, which rounding can take below zero.
    partial = torch.addmm(references.square().sum(dim=1), vectors, references.T, alpha=-2)
    return (partial + vectors.square().sum(dim=1, keepdim=True)).clamp_min(0)


def nearest_distance(vectors: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of each vector ``(N, k)`` from its nearest reference ``(M, k)``, of shape ``(N,)``.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 0.0], [4.0, 3.0]]))
        tensor([3.])
    """
    blocks = [squared_distances(vectors, block).amin(dim=1) for block in references.split(REFERENCES_AT_ONCE)]
    return torch.stack(blocks).amin(dim=0).sqrt()
