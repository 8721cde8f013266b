"""Fixes of faults of anomalib and OpenVINO; each module says which fault, and in which version it was found.

They apply to every model of anomalib in a program. A fix is removed when anomalib has fixed the fault.
"""

from functools import cache

from anomalib_students.wrappers import wrap_anomalib

from .class_paths import name_models_as_anomalib
from .compression_names import take_lower_case
from .one_line_errors import end_in_one_line
from .signal_stacks import keep_signal_stacks
from .telemetry import report_only_if_asked

__all__ = ["apply_mends"]


@cache
def apply_mends() -> None:
    """Fix the modules, now or as soon as they are imported. A second call changes nothing."""
    end_in_one_line()
    keep_signal_stacks()
    name_models_as_anomalib()
    report_only_if_asked()
    take_lower_case()
    wrap_anomalib()
