"""Trainings on a Ray cluster: one ensemble for each category and patch size, merged to a model for each category."""

from importlib.util import find_spec

if find_spec("ray") is None:
    msg = "The Ray jobs need Ray: pip install 'anomalib-students[ray]'"
    raise ModuleNotFoundError(msg)
