"""Scores that are not finite never pass as good."""

import torch

__all__ = ["never_good"]

LARGEST_PIXEL = 5e4
"""Pixels beyond it are taken for broken: normalised images are below 10, and half precision ends at 65,504."""


def never_good(scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Raise a ``ValueError`` for normalised images whose scores, of shape ``(B, 1, h, w)``, can't be trusted.

    These have a pixel that is NaN, infinite or absurdly large, or a score that is not finite. Comparisons with NaN are
    false, so that it would be labelled good. In exported models, activations and pooling may also turn NaN into a
    number, and 8 bits hold no large ones: so the pixels are checked too.

    Exported models can't raise errors. There, all scores of a broken image are infinite, which is a score of 1 if
    scores are normalised.
    """
    whole = (images.abs() <= LARGEST_PIXEL).float().amin(dim=(1, 2, 3), keepdim=True) > 0
    finite = (scores.abs() < torch.inf) & whole
    if torch.compiler.is_exporting():
        return torch.where(finite, scores, torch.full_like(scores, torch.inf))
    if not finite.all():
        broken = (~finite).flatten(1).any(dim=1).nonzero().flatten().tolist()
        cause = "the model's weights are not finite" if whole.all() else f"pixels are NaN or beyond {LARGEST_PIXEL:g}"
        msg = f"There is no score for the images {broken} of the batch: {cause}."
        raise ValueError(msg)
    return scores
