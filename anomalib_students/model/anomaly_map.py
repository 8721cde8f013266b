"""From descriptors to anomaly scores (eqs. 8 to 12)."""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch.nn import functional

SCORE_WINDOW = 8  # Side in pixels of the windows whose mean scores count for the score of an image.
LARGEST_PIXEL = 5e4
"""Pixels beyond it are taken for broken: normalised images are below 10, and half precision ends at 65,504."""


def regression_error(
    students: torch.Tensor, target: torch.Tensor, weighting: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared distance between the mean of the students and the teacher (eqs. 8 and 9).

    Args:
        students: Descriptors of M students, of shape ``(M, B, d, h, w)``.
        target: Normalised descriptors of the teacher, of shape ``(B, d, h, w)``.
        weighting: Matrix of shape ``(d, d)`` that the differences are multiplied by; none or an empty one in the paper.

    Returns:
        Regression error e of shape ``(B, h, w)`` in float32, in ``[0, inf)``.
    """
    differences = students.float().mean(dim=0) - target.float()
    return transform(weighting, differences).square().sum(dim=1)


def transform(matrix: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
    """Multiply features ``(B, C, h, w)`` by a matrix ``(C, C)`` in float32, unless there is none or an empty one."""
    if matrix is None or not len(matrix):
        return features
    # Not as a convolution, which a quantised model would compute in 8 bits.
    return torch.einsum("ij,bjhw->bihw", matrix.to(features), features).float()


def largest_around(values: torch.Tensor, window: int) -> torch.Tensor:
    """Largest of the values ``(B, h, w)`` in the window of odd side around each of them."""
    return functional.max_pool2d(values[:, None], window, stride=1, padding=window // 2)[:, 0]


def focus(error: torch.Tensor, deviation: torch.Tensor, softening: torch.Tensor, window: int) -> torch.Tensor:
    """Reduce the error around a defect, which is in the patches of all pixels about it, but only in the middle of some.

    Args:
        error: Regression error of shape ``(B, h, w)``.
        deviation: How unusual the middle of each patch is, at least 0, of the same shape.
        softening: What differences of the deviation are compared with; a scalar.
        window: Side of the surroundings, odd, within which the error stays where the deviation is largest.

    Returns:
        Error of the same shape, multiplied by ``(deviation + softening) / (largest + softening)``.
    """
    largest = largest_around(deviation, window)
    return error * (1 - (largest - deviation) / (largest + softening))


def predictive_uncertainty(students: torch.Tensor) -> torch.Tensor:
    """Spread of the students around their mean (eq. 10).

    It is the mean squared distance to the mean: the number that eq. 10 has as a difference of squared norms, without
    the cancellation.

    Args:
        students: Descriptors of M students, of shape ``(M, B, d, h, w)``.

    Returns:
        Predictive uncertainty v of shape ``(B, h, w)`` in float32, in ``[0, inf)``; zero for M = 1.
    """
    students = students.float()
    return (students - students.mean(dim=0)).square().sum(dim=2).mean(dim=0)


def normalised_score(value: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Express e or v, of shape ``(B, h, w)``, in standard deviations from its mean over good images (eq. 11)."""
    return (value - mean) / std


def upsample(scores: torch.Tensor, output_stride: int, size: Sequence[int]) -> torch.Tensor:
    """Interpolate scores of every s-th pixel bilinearly to all pixels; exact where scores are given.

    Pixels beyond the last given row or column take the value of the nearest pixel before them.

    Args:
        scores: Scores of shape ``(B, 1, ceil(H / s), ceil(W / s))``; entry ``(i, j)`` belongs to pixel ``(s i, s j)``.
        output_stride: Distance s between the given pixels.
        size: Height H and width W of the map.

    Returns:
        Scores of shape ``(B, 1, H, W)``.
    """
    if output_stride == 1:
        return scores
    # With aligned corners, the first and the last entry are the centres of the first and the last pixel.
    covered = [output_stride * (side - 1) + 1 for side in scores.shape[-2:]]
    scores = functional.interpolate(scores, size=covered, mode="bilinear", align_corners=True)
    return functional.pad(scores, (0, size[1] - covered[1], 0, size[0] - covered[0]), mode="replicate")


def combine_scales(scores: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Average the normalised scores of several scales, maps of shape ``(B, 1, H, W)``; eq. 12 has equal weights."""
    weighted = [of_scale * weight for of_scale, weight in zip(scores, weights, strict=True)]
    return torch.stack(weighted).sum(dim=0) / sum(weights)


def image_score(scores: torch.Tensor, score_fraction: float) -> torch.Tensor:
    """Score images by the mean of the largest scores, so that no single pixel decides, and thin defects count too.

    Args:
        scores: Scores of the pixels, of shape ``(B, 1, H, W)``.
        score_fraction: Fraction of the image, in windows of 8 x 8 pixels, that the mean is over; 0 for the maximum of
            all pixels. Windows that reach beyond the border repeat its pixels.

    Returns:
        Scores of the images, of shape ``(B,)``.

    Example:
        >>> scores = torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0]).view(1, 1, 1, 9)
        >>> image_score(scores, score_fraction=0), image_score(scores, score_fraction=0.01)
        (tensor([9.]), tensor([4.]))
    """
    if score_fraction == 0:
        return scores.amax(dim=(1, 2, 3))
    # Not by ceil_mode, which exports only for the sizes of the traced image; and in whole numbers, as inferencers may
    # compute in bfloat16.
    padding = (0, -scores.shape[-1] % SCORE_WINDOW, 0, -scores.shape[-2] % SCORE_WINDOW)
    means = functional.avg_pool2d(functional.pad(scores, padding, mode="replicate"), SCORE_WINDOW).flatten(1)
    return means.topk(1 + means.shape[1] * round(1000 * score_fraction) // 1000).values.mean(dim=1)


def prediction(scores: torch.Tensor, images: torch.Tensor, score_fraction: float = 0) -> InferenceBatch:
    """Predict what anomalib's models do: a map, and a score of each image.

    Images have no score that can be trusted if a pixel is NaN, infinite or absurdly large, or a score is not finite.
    Comparisons with NaN are false, so that they would be labelled good. In exported models, activations and pooling may
    also turn NaN into a number, and 8 bits hold no large ones: so the pixels are checked too.

    Args:
        scores: Scores of shape ``(B, 1, H, W)``.
        images: Normalised images that they are of, of shape ``(B, 3, H, W)``.
        score_fraction: Fraction of the image that counts for its score, see :func:`image_score`.

    Returns:
        Scores of the images, of shape ``(B,)``, and the anomaly map.

    Raises:
        ValueError: If there is no score for an image. In exported models, which can't raise errors, its scores are
            infinite, which is 1 if scores are normalised.
    """
    whole = (images.abs() <= LARGEST_PIXEL).float().amin(dim=(1, 2, 3), keepdim=True) > 0
    finite = (scores.abs() < torch.inf) & whole
    if torch.compiler.is_exporting():
        scores = torch.where(finite, scores, torch.full_like(scores, torch.inf))
    elif not finite.all():
        broken = (~finite).flatten(1).any(dim=1).nonzero().flatten().tolist()
        cause = "the model's weights are not finite" if whole.all() else f"pixels are NaN or beyond {LARGEST_PIXEL:g}"
        raise ValueError(f"There is no score for the images {broken} of the batch: {cause}.")
    return InferenceBatch(pred_score=image_score(scores, score_fraction), anomaly_map=scores)
