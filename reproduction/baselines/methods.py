"""The methods that the paper fits to the teacher's descriptors, by name."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from anomalib_students.model.describers import Mode

from .autoencoder import Autoencoder
from .distribution import DescriptorDistribution
from .gradient_descent import TrainedDistribution
from .k_means import KMeans
from .nearest_neighbour import NearestNeighbour
from .one_class_svm import OneClassSVM
from .variational_autoencoder import VariationalAutoencoder

__all__ = ["METHODS", "Method", "create_distribution"]

Method = Literal["nearest_neighbour", "k_means", "one_class_svm", "autoencoder", "variational_autoencoder"]
"""Names of the methods."""

METHODS: dict[str, type[DescriptorDistribution]] = {
    "nearest_neighbour": NearestNeighbour,
    "k_means": KMeans,
    "one_class_svm": OneClassSVM,
    "autoencoder": Autoencoder,
    "variational_autoencoder": VariationalAutoencoder,
}
"""Class of each method."""

PATCH_SETTINGS: dict[str, dict[str, Any]] = {
    "nearest_neighbour": {"dictionary_size": None},
    "autoencoder": {"lr": 1e-2, "batch_size": 64},
    # Without the clipping, which is not in the paper, this learning rate can drive the variances to their bounds.
    "variational_autoencoder": {"lr": 1e-2, "batch_size": 64, "max_gradient_norm": 10.0},
}
"""Settings of one-class classification (Appendix B) that differ from those of MVTec AD (Appendix C), which are the
defaults of the methods' classes."""


def create_distribution(
    method: str, descriptor_dim: int = 128, settings: Mapping[str, Any] | None = None, mode: Mode = "pixel"
) -> DescriptorDistribution:
    """Make the model of a method, with the paper's settings for the mode unless ``settings`` replaces them.

    Raises a ``ValueError`` if there is no such method or setting.

    Example:
        >>> create_distribution("k_means", settings={"n_centres": 20}).n_centres
        20
    """
    if method not in METHODS:
        msg = f"method must be one of {tuple(METHODS)}, got {method!r}."
        raise ValueError(msg)
    settings = dict(settings or {})
    known = _setting_names(METHODS[method])
    unknown = settings.keys() - set(known)
    if unknown:
        msg = f"The method {method} has no setting {', '.join(sorted(unknown))}: its settings are {', '.join(known)}."
        raise ValueError(msg)
    defaults = PATCH_SETTINGS.get(method, {}) if mode == "patch" else {}
    dimension = {"descriptor_dim": descriptor_dim} if issubclass(METHODS[method], TrainedDistribution) else {}
    return METHODS[method](**dimension, **{**defaults, **settings})


def _setting_names(method: type[DescriptorDistribution]) -> list[str]:
    names = list(inspect.signature(method).parameters)
    if issubclass(method, TrainedDistribution):
        names += inspect.signature(TrainedDistribution.__init__).parameters
    return [name for name in names if name not in {"self", "descriptor_dim", "settings"}]
