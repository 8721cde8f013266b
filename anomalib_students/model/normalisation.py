"""How descriptors and scores are normalised (eqs. 7 and 11), from statistics of anomaly-free images.

What is constant in the training images varies only by rounding. Divided by that, values would be meaningless, and as
large as 1e12. So what is divided by has a floor, far below what images of workpieces give: with the bundled teachers,
each dimension of the descriptors deviates by 15 % of their typical size or more, and by 0.5 % on a blank sheet with
noise of one level of grey. The squared distance of d independent dimensions deviates by ``sqrt(2 / d)`` of its mean,
12 % for d = 128.
"""

import logging

import torch

logger = logging.getLogger(__name__)

RELATIVE_FLOOR = 0.01  # Fraction of the typical size of a descriptor, and of the mean of a score.
LEAST_VARIANCE = 0.01  # Variance that whitening takes directions to have at least, in units of the mean of all.
DIVERGED = "The students' scores are not finite: the training diverged. Use a smaller lr."
SCORE_FLOOR = 1e-5  # Fraction of the squared distance of descriptors that have nothing to do with one another.


def descriptor_divisor(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return what the dimensions of the descriptors are divided by, positive, of shape ``(d,)`` in float32.

    It is the standard deviation, or a hundredth of the root mean square of all dimensions if that is larger. Raises a
    ``ValueError`` if the statistics are not finite.
    """
    typical = (mean.square() + std.square()).mean().sqrt()
    if not typical.isfinite():
        raise ValueError("Descriptors of the training images are not finite: pixels are NaN or absurdly large.")
    # Where all descriptors are zero, nothing is left to divide.
    floor = RELATIVE_FLOOR * typical if typical > 0 else torch.ones_like(typical)
    n_below = int((std < floor).sum())
    if 2 * n_below > len(std):
        logger.warning(
            "The training images are nearly constant: %d of the teacher's %d descriptor dimensions vary by less than "
            "%.0f %% of their size. Check the images: every deviation will be anomalous.",
            n_below,
            len(std),
            100 * RELATIVE_FLOOR,
        )
    return std.clamp(min=floor).float()


def whitening_matrix(covariance: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """Return the matrix, of shape ``(d, d)`` in float32, that makes normalised descriptors uncorrelated and vary alike.

    Students err most where descriptors vary most. Whitened, directions in which good images hardly vary count as much,
    and in these defects show; but not those with less than a hundredth of the mean variance, which are mostly noise.
    ``covariance`` is that of the descriptors, ``divisor``, of shape ``(d,)``, what they have been normalised with.
    """
    variances, directions = torch.linalg.eigh(covariance)
    # Where descriptors are nearly constant, the divisor has a floor.
    least = LEAST_VARIANCE * torch.maximum(variances.mean(), divisor.square().mean())
    return ((directions * variances.clamp(min=least).rsqrt()).T * divisor).float()


def error_weighting_matrix(covariance: torch.Tensor) -> torch.Tensor:
    """Return the matrix, of shape ``(d, d)`` in float32, that weighs the differences of students and teacher.

    It is half-way to their Mahalanobis distance: a direction in which students differ little from the teacher on good
    images counts more, by the square root of what that distance would have. ``covariance`` is that of the differences.
    Raises a ``ValueError`` if it is not finite.
    """
    if not covariance.isfinite().all():
        raise ValueError(DIVERGED)
    variances, directions = torch.linalg.eigh(covariance)
    # Students of constant images may differ nowhere.
    relative = variances / variances.mean().clamp(min=torch.finfo(variances.dtype).tiny)
    return (directions * relative.clamp(min=LEAST_VARIANCE).pow(-0.25)).T.float()


def score_divisor(mean: torch.Tensor, std: torch.Tensor, descriptor_dim: int) -> torch.Tensor:
    """Return what regression error and predictive uncertainty are divided by (eq. 11), positive, in float32.

    It is their standard deviation over the held-out images, or a floor from mean and dimension d if that is larger.
    Raises a ``ValueError`` if the statistics are not finite.
    """
    if not mean.isfinite().all():
        raise ValueError(DIVERGED)
    floor = (RELATIVE_FLOOR * mean).clamp(min=SCORE_FLOOR * descriptor_dim)
    # A single student has no uncertainty at all.
    if ((std < floor) & (mean > 0)).any():
        logger.warning(
            "The scores of the held-out images deviate by less than %.0f %% of their mean: the images are nearly "
            "constant, or there is only one. Check them: every deviation will be anomalous.",
            100 * RELATIVE_FLOOR,
        )
    return std.maximum(floor).float()
